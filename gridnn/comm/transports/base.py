"""What a transport is: it moves flat, contiguous arrays between the ranks of one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Array = Any
Result = TypeVar("Result")
Messages = Sequence[tuple[int, Array]]  # (place of the peer in the group, flat array)

LARGEST_COUNT = 2**31 - 1  # what the C int of MPI's calls holds; counts above it fail in Open MPI 5


class Work:
    """An operation that was begun; its arrays belong to it until `wait`."""

    def wait(self) -> None:
        """Return when the results are in place: for the host, or for what is asked of the compute stream from now on.

        What went wrong in the operation is raised here.
        """
        raise NotImplementedError

    def abandon(self, until: float) -> bool:
        """Whether it ends, however, before ``until`` (`time.monotonic`), now that its communicator is revoked."""
        raise NotImplementedError


class Transport:
    """One way between the ranks of a group (abstract).

    Every member asks for the same operations in the same order. Each operation begins and gives its `Work`; with
    ``at_once`` the caller will wait before anything else. Arrays are flat and contiguous, ``sizes`` are elements.

    Attributes
    ----------
    name : str
        What the user calls it.
    limit : int
        The most elements that one call counts.
    copied_to_host : int
        Bytes that were copied from the device to host memory so far.
    """

    name: str
    limit = LARGEST_COUNT
    copied_to_host = 0

    def all_gather(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        """Join the parts of all members, ``sizes`` elements each, into ``receive``."""
        raise NotImplementedError

    def reduce_scatter(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        """Sum ``send`` over the members; each keeps its part of ``sizes`` elements in ``receive``."""
        raise NotImplementedError

    def all_reduce(self, array: Array, operation: str = "sum", at_once: bool = False) -> Work:
        """Take the ``operation`` ("sum" or "max") of ``array`` over the members, in place."""
        raise NotImplementedError

    def all_to_all(
        self, send: Array, sent: Sequence[int], receive: Array, received: Sequence[int], at_once: bool = False
    ) -> Work:
        """Send every member its piece of ``send``, of ``sent`` elements, and receive ``received`` of each."""
        raise NotImplementedError

    def exchange(self, sends: Messages, receives: Messages) -> Work:
        """Send arrays to members and receive arrays from members, all at once.

        Several messages from one rank to another arrive in the order of the two lists.
        """
        raise NotImplementedError

    def in_order(self, call: Callable[[], Result]) -> Result:
        """What ``call``, a call of MPI on the group's communicator, gives: after all operations that were begun."""
        return call()

    def free(self) -> None:
        """Give back what the transport holds; every member calls it, when all its work is done."""
