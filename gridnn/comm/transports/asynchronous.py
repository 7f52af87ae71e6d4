"""MPI on the arrays of a device, behind the main thread's back: what the host transport and CUDA-aware MPI share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from mpi4py import MPI

from gridnn.comm.transports.base import Array, Messages, Result, Transport, Work
from gridnn.comm.transports.progress import ProgressThread

Event = Any
Buffer = Any  # memory that MPI takes, without a type
Call = Callable[[list[Buffer], list[Buffer]], None]


class DeviceWork(Work):
    """A task of the progress thread, and the event after which its arrays may be used."""

    def __init__(self, device: Any, task: Future, arrays: Sequence[Array]) -> None:
        self.device, self.task = device, task
        self.arrays = arrays  # their memory must not be given to others meanwhile

    def wait(self) -> None:
        event = self.task.result()
        if event is not None:
            self.device.hold(event)
        self.arrays = ()


class DeviceTransport(Transport):
    """MPI's blocking calls on the arrays of a ``device``, made when that has what is sent (abstract).

    Every operation marks the compute stream when it begins, and goes to the progress thread, which waits for that mark.
    """

    def __init__(self, comm: Any, device: Any) -> None:
        self.comm, self.device = comm, device
        self.thread = ProgressThread(device.bind)

    # -- operations ------------------------------------------------------------------------------------------

    def all_gather(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        kind, sizes = mpi_type(send), list(sizes)

        def call(sent: list[Buffer], received: list[Buffer]) -> None:
            self.comm.Allgatherv([sent[0], send.size, kind], [received[0], sizes, kind])

        return self._begin([send], [receive], call, at_once)

    def reduce_scatter(self, send: Array, receive: Array, sizes: Sequence[int], at_once: bool = False) -> Work:
        def call(sent: list[Buffer], received: list[Buffer]) -> None:
            self._reduce_scatter(sent[0], received[0], list(sizes), mpi_type(send))

        return self._begin([send], [receive], call, at_once)

    def all_to_all(
        self, send: Array, sent: Sequence[int], receive: Array, received: Sequence[int], at_once: bool = False
    ) -> Work:
        kind, sizes = mpi_type(send), (list(sent), list(received))

        def call(given: list[Buffer], taken: list[Buffer]) -> None:
            self.comm.Alltoallv([given[0], sizes[0], kind], [taken[0], sizes[1], kind])

        return self._begin([send], [receive], call, at_once)

    def exchange(self, sends: Messages, receives: Messages) -> Work:
        def call(sent: list[Buffer], received: list[Buffer]) -> None:
            taken, given = zip(receives, received, strict=True), zip(sends, sent, strict=True)
            requests = [self.comm.Irecv([b, mpi_type(a)], source=peer) for (peer, a), b in taken]
            requests += [self.comm.Isend([b, mpi_type(a)], dest=peer) for (peer, a), b in given]
            MPI.Request.Waitall(requests)

        return self._begin([array for _, array in sends], [array for _, array in receives], call, False)

    def in_order(self, call: Callable[[], Result]) -> Result:
        return self.thread.run(call).result()

    def free(self) -> None:
        self.thread.free()

    # -- helpers ---------------------------------------------------------------------------------------------

    def _begin(self, sends: list[Array], receives: list[Array], call: Call, at_once: bool) -> Work:
        return self._do(lambda ready: self._carry(ready, sends, receives, call), [*sends, *receives], at_once)

    def _do(self, job: Callable[[Event], Event | None], arrays: list[Array], at_once: bool) -> Work:
        """Begin ``job``, which is called with the event after which the arrays are ready and gives that of its end."""
        ready = self.device.mark()
        task = (self.thread.run if at_once else self.thread.start)(lambda: job(ready))
        return DeviceWork(self.device, task, arrays)

    def _carry(self, ready: Event, sends: list[Array], receives: list[Array], call: Call) -> Event | None:
        """``call`` with the memory of ``sends`` and ``receives``, after ``ready``; None if all is done on return."""
        raise NotImplementedError

    def _reduce_scatter(self, sent: Buffer, received: Buffer, sizes: list[int], kind: MPI.Datatype) -> None:
        self.comm.Reduce_scatter([sent, sum(sizes), kind], [received, sizes[self.comm.rank], kind], sizes)


def mpi_type(array: Array) -> MPI.Datatype:
    """MPI's type for the elements of ``array``."""
    return MPI.Datatype.fromcode(array.dtype.char)
