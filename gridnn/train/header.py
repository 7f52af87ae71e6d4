"""The header of a checkpoint: which tensor lies where in a safetensors file, and what the run was doing.

The layout is that of https://github.com/huggingface/safetensors: the length of the header in 8 bytes, little-endian;
the header, a JSON object; the tensors, one after the other.  The header is as long before the digests of the tensors
are known as afterwards, so that the data can be written first.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gridnn.errors import UserError
from gridnn.records import open_regular, parse_json, shortened, texts, whole

VERSION = "1"
PREFIX = 8  # bytes that hold the length of the header
LONGEST = 100_000_000  # bytes of a header that safetensors reads
NAMES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
ITEMSIZES = {"F16": 2, "F32": 4, "F64": 8, "I64": 8}
CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
DIGEST = re.compile(r"[0-9a-f]{16}")
UNKNOWN = b"0" * 64
OWN = ("format", "gridnn", "checksum", "digests")  # what is said of the file, not of the run
COUNTS = ("step", "updates", "samples", "ranks")  # facts that are whole numbers, where they are there
MOST_DIMENSIONS = 16


class Damaged(UserError):
    """A file that is no checkpoint, or not the one that was written."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes
    ----------
    dtype : str
        As safetensors names it: ``F32``, ``F64``.
    shape : tuple of int
        The global shape.
    start : int
        Where it begins, in bytes after the header.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + math.prod(self.shape) * ITEMSIZES[self.dtype]


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes
    ----------
    tensors : dict of str to Stored
        In the order of the file, without gaps.
    facts : dict of str to str
        The ``__metadata__`` of the run; values that are no texts are JSON.
    digests : dict of str to int
        See `gridnn.kernels.checksum`.
    """

    tensors: Mapping[str, Stored]
    facts: Mapping[str, str]
    digests: Mapping[str, int]

    @cached_property
    def data(self) -> int:
        """Where the tensors begin in the file."""
        return len(self.encode())

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return self.data + max((tensor.stop for tensor in self.tensors.values()), default=0)

    def encode(self) -> bytes:
        """The bytes at the beginning of the file."""
        digests = {name: f"{self.digests.get(name, 0):016x}" for name in self.tensors}
        metadata = {
            "format": "gridnn",
            "gridnn": VERSION,
            "checksum": UNKNOWN.decode(),
            "digests": json.dumps(digests),
            **self.facts,
        }
        entries = {
            name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": [t.start, t.stop]}
            for name, t in self.tensors.items()
        }
        text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        text = text.replace(UNKNOWN, hashlib.sha256(text).hexdigest().encode(), 1)
        return struct.pack("<Q", len(text)) + text


def lay_out(shapes: Mapping[str, tuple[str, Sequence[int]]], facts: Mapping[str, Any]) -> Header:
    """The header for tensors of (NumPy's dtype, global shape), by name, digests still unknown."""
    tensors, start = {}, 0
    for name, (dtype, shape) in shapes.items():
        tensors[name] = Stored(NAMES[dtype], tuple(shape), start)
        start = tensors[name].stop
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    return Header(tensors, texts, {})


def read_header(path: str) -> Header:
    """Read the header of the checkpoint ``path`` and compare it with the size of the file.

    Raises
    ------
    Damaged
        If the file cannot be read, is no regular one or none of gridnn's, is shorter or longer than its header says,
        or the header has been changed, or holds what gridnn does not write; the text names the file.
    """
    try:
        with open_regular(path) as file:
            size, prefix = os.fstat(file.fileno()).st_size, file.read(PREFIX)
            length = int.from_bytes(prefix, "little")
            text = file.read(length) if length <= min(LONGEST, size) else b""
    except OSError as error:
        raise Damaged(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if len(prefix) < PREFIX:
        raise Damaged(f"checkpoint {path} is truncated: it has {size} bytes, not even the length of a header")
    if length > LONGEST:
        raise Damaged(f"{path} is no checkpoint: it does not begin like a safetensors file")
    if len(text) < length:
        raise Damaged(f"checkpoint {path} is truncated: the header takes {length:,} bytes, the file has {size:,}")
    header = _decode(path, text)
    if size != header.size:
        how = "truncated" if size < header.size else "too long"
        raise Damaged(f"checkpoint {path} is {how}: its header speaks of {header.size:,} bytes, it has {size:,}")
    if header.data != PREFIX + length:
        raise Damaged(f"checkpoint {path} is not as gridnn writes it: its header has {length:,} bytes")
    return header


def _decode(path: str, text: bytes) -> Header:
    try:
        entries = parse_json("its header", text)
        facts = texts("__metadata__", entries.pop("__metadata__", {}), LONGEST)
    except (UserError, AttributeError, TypeError) as error:
        what, why = "corrupted, or no safetensors file", f" ({error})" if isinstance(error, UserError) else ""
        raise Damaged(f"checkpoint {path} is {what}: its header is no JSON object{why}") from error
    if "gridnn" not in facts:
        raise Damaged(f"{path} is no checkpoint of gridnn: a safetensors file whose __metadata__ lacks 'gridnn'")
    if facts["gridnn"] != VERSION:
        said = shortened(facts["gridnn"]).strip("'")
        raise Damaged(f"checkpoint {path} is of version {said}, but this gridnn reads version {VERSION}")
    told = CHECKSUM.search(text)
    if told is None or hashlib.sha256(text.replace(told[1], UNKNOWN, 1)).hexdigest().encode() != told[1]:
        raise Damaged(f"checkpoint {path} is corrupted: its header is not the one that was written")
    try:
        tensors = _tensors(entries)
        digests = _digests(facts.get("digests", ""), tensors)
        for name in COUNTS:
            whole(name, parse_json(name, facts.get(name, "0")))
    except UserError as error:
        raise Damaged(f"checkpoint {path} is not as gridnn writes it: {error}") from error
    return Header(tensors, {name: text for name, text in facts.items() if name not in OWN}, digests)


def _tensors(entries: Mapping[str, Any]) -> dict[str, Stored]:
    """The tensors of a header, each of which begins where the one before it ends."""
    found: dict[str, Stored] = {}
    start = 0
    for name, entry in entries.items():
        about = f"tensor {shortened(name)}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise UserError(f"{about} is {shortened(entry)}, not its dtype, shape and data_offsets")
        dtype, shape = entry["dtype"], entry["shape"]
        if not isinstance(dtype, str) or dtype not in ITEMSIZES:
            raise UserError(f"{about} is of type {shortened(dtype)}, not one of {', '.join(ITEMSIZES)}")
        if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
            raise UserError(f"{about} has the shape {shortened(shape)}, not a list of up to {MOST_DIMENSIONS} sizes")
        one = Stored(dtype, tuple(whole(f"shape of {about}", size) for size in shape), start)
        start = whole(f"end of {about}", one.stop)
        if entry["data_offsets"] != [one.start, start]:
            said = shortened(entry["data_offsets"])
            raise UserError(f"{about} lies at {said}, not at {one.start:,} to {start:,}, where its place is")
        found[name] = one
    return found


def _digests(text: str, tensors: Mapping[str, Stored]) -> dict[str, int]:
    said = texts("digests", parse_json("digests", text), 16)
    if said.keys() != tensors.keys() or not all(DIGEST.fullmatch(one) for one in said.values()):
        raise UserError("its digests are not those of its tensors, sixteen hexadecimal digits each")
    return {name: int(one, 16) for name, one in said.items()}
