"""The backend of NVIDIA GPUs: device arrays are CuPy's, and all local mathematics runs on one stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gridnn.errors import UserError
from gridnn.kernels.backend import Array, Backend, require_contiguous, require_shape
from gridnn.kernels.cuda.cublas import Cublas
from gridnn.kernels.cuda.cublaslt import make_epilogues
from gridnn.kernels.cuda.cudnn import make_cudnn
from gridnn.kernels.cuda.device import CupyDevice
from gridnn.kernels.cuda.kernels import cuda_kernels
from gridnn.kernels.cuda.setup import choose_device, import_cupy, require_bfloat16, require_libraries, spoken

WORKSPACE_BYTES = 32 << 20  # a tile of the convolutions: what fits into the cache of a GPU, and keeps it busy


class CupyBackend(Backend):
    """Arrays of CuPy in the memory of one GPU, its ``device``, with its ``pool`` of memory.

    There is one kind of ``kernels``: "auto". The ``local_rank``, among those of the node, decides about the GPU. With
    ``tf32`` products of float32 may round their factors to TF32. ``conv`` says whose convolutions: "gemm", products by
    cuBLAS, or "cudnn"; "auto" is cuDNN where it is installed. `UserError` if other kernels are asked for, or CuPy, a
    driver, a GPU or a library is missing.
    """

    name = "cupy"
    workspace_bytes = WORKSPACE_BYTES

    def __init__(self, kernels: str = "auto", local_rank: int = 0, tf32: bool = False, conv: str = "auto") -> None:
        super().__init__()
        if kernels != "auto":
            raise UserError(f"--kernels {kernels} computes on the CPU: --backend cupy has kernels of its own, use auto")
        self.xp = cupy = import_cupy()
        number = choose_device(cupy, local_rank)
        require_libraries(cupy)
        self.device = CupyDevice(cupy, number)
        self.pool = self.device.pool
        with self.mistakes():
            stream = self.device.stream("compute")
            gemm, cudnn = Cublas(cupy, stream, tf32), make_cudnn(conv, cupy, stream, tf32)
            self.kernels = cuda_kernels(cupy, gemm, cudnn, make_epilogues(cupy, stream, tf32))

    def facts(self) -> dict[str, str]:
        runtime = self.xp.cuda.runtime
        versions = spoken(runtime.driverGetVersion()), self.xp.__version__, spoken(runtime.runtimeGetVersion())
        return {"gpu": self.device.name, "cuda": "driver {}, CuPy {} for {}".format(*versions)}

    def dtype(self, name: Any) -> np.dtype:
        dtype = super().dtype(name)
        if dtype.name == "bfloat16":
            require_bfloat16(np.__version__)
        return dtype

    def address(self, array) -> int:
        return self.device.pointer(array)

    def asarray(self, host) -> Array:
        return self.xp.asarray(host)

    def to_host(self, array: Array) -> np.ndarray:
        return self.xp.asnumpy(array)

    def from_host(self, host: np.ndarray, out: Array) -> None:
        require_shape(host, out)
        host = np.asarray(host, out.dtype, order="C")
        if out.flags.c_contiguous:
            out.set(host)
        else:
            out[...] = self.xp.asarray(host)

    def host_view(self, array: Array) -> np.ndarray:
        require_contiguous(array)
        return self.to_host(array)

    def synchronize(self) -> None:
        self.device.wait(self.device.mark())

    @contextmanager
    def mistakes(self) -> Iterator[None]:
        """Inside, memory of the GPU that runs out is the user's mistake."""
        try:
            yield
        except self.xp.cuda.memory.OutOfMemoryError as error:
            raise UserError(self._out_of_memory()) from error

    def _out_of_memory(self) -> str:
        free, total = self.xp.cuda.runtime.memGetInfo()
        return (
            f"{self.device.name} is out of memory: arrays hold {self.pool.used / 2**30:.2f} GiB (at most "
            f"{self.pool.peak / 2**30:.2f}), this rank has taken {self.pool.taken / 2**30:.2f}, and "
            f"{free / 2**30:.2f} of {total / 2**30:.2f} GiB are free: use a smaller --batch, --accumulate, more ranks "
            "(each with a GPU of its own), or --recompute"
        )
