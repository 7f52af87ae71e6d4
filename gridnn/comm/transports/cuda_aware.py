"""Device pointers to an MPI library that takes them."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from mpi4py import MPI

from gridnn.comm.transports.asynchronous import Buffer, Call, DeviceTransport, Event, mpi_type
from gridnn.comm.transports.base import Array, Work
from gridnn.comm.transports.direct import OPERATIONS


class CudaAwareTransport(DeviceTransport):
    """CUDA-aware MPI, of a library with these `Capabilities`.

    MPI knows nothing of streams: the host waits for the event of the stream that wrote the arrays before MPI may read
    them. Every library takes the blocking reductions, several crash in the non-blocking ones, so that started sums
    are blocking calls of the progress thread. All buffers are contiguous, with types that MPI has.
    """

    name = "cuda-aware"

    def __init__(self, comm: Any, device: Any, capabilities: Any) -> None:
        super().__init__(comm, device)
        self.capabilities = capabilities

    def all_reduce(self, array: Array, operation: str = "sum", at_once: bool = False) -> Work:
        def call(_: list[Buffer], received: list[Buffer]) -> None:
            self.comm.Allreduce(MPI.IN_PLACE, [received[0], mpi_type(array)], OPERATIONS[operation])

        return self._begin([], [array], call, at_once)

    def _carry(self, ready: Event, sends: list[Array], receives: list[Array], call: Call) -> None:
        self.device.wait(ready)
        call([self._buffer(array) for array in sends], [self._buffer(array) for array in receives])

    def _buffer(self, array: Array) -> MPI.buffer:
        address = self.device.pointer(array) if array.size else 0
        return MPI.buffer.fromaddress(address, array.nbytes)

    def _reduce_scatter(self, sent: MPI.buffer, received: MPI.buffer, sizes: list[int], kind: MPI.Datatype) -> None:
        if self.capabilities.vector_reduce_scatter:
            super()._reduce_scatter(sent, received, sizes, kind)
        elif len(set(sizes)) == 1:
            self.comm.Reduce_scatter_block([sent, kind], [received, kind])
        else:  # part after part, each to its rank: as many words, more messages
            width = kind.Get_size()
            for root, (start, size) in enumerate(zip(accumulate(sizes, initial=0), sizes, strict=False)):
                part = [sent[start * width : (start + size) * width], size, kind]
                self.comm.Reduce(part, [received, size, kind] if root == self.comm.rank else None, root=root)
