"""Pickles of plain values, read without running anything that they ask for."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Container
from dataclasses import dataclass

MOST_OPERATIONS = 1_000_000
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # of Python 2
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ENCODE = "_codecs.encode"  # how Python 3 writes bytes in protocol 2


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle asks for; it is not looked up."""

    name: str


@dataclass
class Call:
    """A call that a pickle asks for, and the state that it gives the result; nothing is called."""

    name: str
    args: tuple
    state: object = None


def load_plain(content: bytes, calls: Container[str]) -> object:
    """The value in a pickle, whose ``calls`` are only recorded (`Call`); strings of Python 2 are bytes.

    It needs as much memory as ``content``: numbers in the memo are keys, and lengths are bounded by what is there.

    Raises
    ------
    pickle.UnpicklingError
        If it is damaged, asks for other calls, or holds what is no plain value.
    """
    machine = _Machine(calls)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count == MOST_OPERATIONS:
                raise pickle.UnpicklingError(f"it has more than {MOST_OPERATIONS} operations")
            machine.do(operation.name, argument)
        return machine.stack.pop()
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise pickle.UnpicklingError(f"it is damaged: {type(error).__name__}: {str(error)[:100]}") from None


class _Machine:
    """The stack machine of pickles, as far as plain values need it."""

    def __init__(self, calls: Container[str]):
        self.stack: list = []
        self._calls, self._marks, self._memo = calls, [], {}

    def do(self, name: str, argument: object) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in STRINGS:
            self.stack.append(argument.encode("latin1"))
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self.stack.append(tuple(self._last(TUPLES[name])))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            if not hasattr(self, f"_{name.lower()}"):
                raise pickle.UnpicklingError(f"it has the operation {name}")
            getattr(self, f"_{name.lower()}")(argument)

    def _last(self, count: int) -> list:
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        start = len(self.stack) - count
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _marked(self) -> list:
        return self._last(max(0, len(self.stack) - self._marks.pop()))

    def _mark(self, _: object) -> None:
        self._marks.append(len(self.stack))

    def _tuple(self, _: object) -> None:
        self.stack.append(tuple(self._marked()))

    def _empty_list(self, _: object) -> None:
        self.stack.append([])

    def _list(self, _: object) -> None:
        self.stack.append(self._marked())

    def _append(self, _: object) -> None:
        self._extend(self._last(1))

    def _appends(self, _: object) -> None:
        self._extend(self._marked())

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("it appends to what is no list")
        self.stack[-1].extend(items)

    def _empty_dict(self, _: object) -> None:
        self.stack.append({})

    def _dict(self, _: object) -> None:
        items = self._marked()
        self.stack.append({})
        self._update(items)

    def _setitem(self, _: object) -> None:
        self._update(self._last(2))

    def _setitems(self, _: object) -> None:
        self._update(self._marked())

    def _update(self, items: list) -> None:
        if type(self.stack[-1]) is not dict or any(type(key) not in (bytes, str, int) for key in items[::2]):
            raise TypeError("it has keys that are no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _global(self, names: str) -> None:
        self._ask(*names.split(" ", 1))

    def _stack_global(self, _: object) -> None:
        self._ask(*self._last(2))

    def _ask(self, module: str, name: str) -> None:
        if type(module) is not str or type(name) is not str:
            raise TypeError("a name is no text")
        asked = f"{module}.{name}"
        if asked != ENCODE and asked not in self._calls:
            raise pickle.UnpicklingError(f"it asks for {ascii(asked[:100])[1:-1]}")
        self.stack.append(Name(asked))

    def _reduce(self, _: object) -> None:
        called, args = self._last(2)
        if type(called) is not Name or type(args) is not tuple:
            raise TypeError("it calls what is no function")
        if called.name == ENCODE:
            text, encoding = args
            if encoding not in ("latin1", b"latin1"):
                raise TypeError("an encoding is not latin1")
            self.stack.append(text.encode("latin1"))
        else:
            self.stack.append(Call(called.name, args))

    def _build(self, _: object) -> None:
        (state,) = self._last(1)
        if type(self.stack[-1]) is not Call:
            raise TypeError("it sets the state of what has none")
        self.stack[-1].state = state
