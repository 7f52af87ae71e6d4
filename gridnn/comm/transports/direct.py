"""Arrays in host memory: MPI reads and writes NumPy's where they lie."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from gridnn.comm.transports.base import Array, Messages, Transport, Work

OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX}


class Requests(Work):
    """What MPI has been asked for, nothing if a blocking call has done it, and arrays with the memory it writes."""

    def __init__(self, backend: Any, requests: list[MPI.Request | None], buffers: list[tuple[Any, Array]]) -> None:
        self.backend, self.requests, self.buffers = backend, [one for one in requests if one is not None], buffers

    def abandon(self, until: float) -> bool:
        for request in self.requests:
            while time.monotonic() < until:
                try:
                    if request.Test():
                        break
                except MPI.Exception:
                    break
                time.sleep(0.001)
            else:
                return False
        return True

    def wait(self) -> None:
        if self.requests:
            MPI.Request.Waitall(self.requests)
        for buffer, array in self.buffers:
            if buffer is not array:
                self.backend.from_host(buffer, array)


class DirectTransport(Transport):
    """MPI on arrays in host memory: its blocking calls where the caller waits at once, else its non-blocking ones.

    The ``backend``, whose arrays they are, says what MPI may read and write (`Backend.host_view`).
    """

    name = "host"

    def __init__(self, comm: Any, backend: Any) -> None:
        self.comm, self.backend, self._host = comm, backend, backend.host_view

    def all_gather(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        call, buffer = self.comm.Allgatherv if at_once else self.comm.Iallgatherv, self._host(receive)
        return self._asked(call(self._host(send), [buffer, list(sizes)]), buffer, receive)

    def reduce_scatter(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        call, buffer = self.comm.Reduce_scatter if at_once else self.comm.Ireduce_scatter, self._host(receive)
        return self._asked(call(self._host(send), buffer, list(sizes)), buffer, receive)

    def all_reduce(self, array: Array, operation: str = "sum", at_once: bool = False) -> Work:
        call, buffer = self.comm.Allreduce if at_once else self.comm.Iallreduce, self._host(array)
        return self._asked(call(MPI.IN_PLACE, buffer, OPERATIONS[operation]), buffer, array)

    def all_to_all(
        self, send: Array, sent: Sequence[int], receive: Array, received: Sequence[int], at_once: bool = False
    ) -> Work:
        call, buffer = self.comm.Alltoallv if at_once else self.comm.Ialltoallv, self._host(receive)
        return self._asked(call([self._host(send), list(sent)], [buffer, list(received)]), buffer, receive)

    def exchange(self, sends: Messages, receives: Messages) -> Work:
        buffers = [(self._host(array), array) for _, array in receives]
        requests = [
            self.comm.Irecv(buffer, source=peer) for (peer, _), (buffer, _) in zip(receives, buffers, strict=True)
        ]
        requests += [self.comm.Isend(self._host(array), dest=peer) for peer, array in sends]
        return Requests(self.backend, requests, buffers)

    def _asked(self, request: MPI.Request | None, buffer: Any, array: Array) -> Work:
        """The work of a call, which gives no request if it is a blocking one."""
        return Requests(self.backend, [request], [(buffer, array)])
