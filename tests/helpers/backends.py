"""What the tests run on: ``pytest --backend numpy|cupy|standin --transport NAME``.

The stand-in is CuPy's of ``tests/helpers/standin``.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gridnn.kernels import Backend, get_backend

STANDIN = Path(__file__).with_name("standin")
# So that the processes which tests start use them, too.
VARIABLE, TRANSPORT = "GRIDNN_TEST_BACKEND", "GRIDNN_TEST_TRANSPORT"


def choose(name: str, transport: str | None = None) -> None:
    """Let the tests of this process, and of those that it starts, run on the backend ``name``."""
    os.environ[VARIABLE] = "cupy" if name == "standin" else name
    if transport:
        os.environ[TRANSPORT] = transport
    if name == "standin":
        sys.path.insert(0, str(STANDIN))
        paths = [str(STANDIN), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def import_standin() -> ModuleType:
    """The stand-in as the module ``cupy`` of this process, unless the tests run on CuPy."""
    if backend_name() == "cupy":
        return importlib.import_module("cupy")
    sys.path.insert(0, str(STANDIN))
    try:
        return importlib.import_module("cupy")
    finally:
        sys.path.remove(str(STANDIN))


def backend_name() -> str:
    """What ``--backend`` of a run is in these tests."""
    return os.environ.get(VARIABLE, "numpy")


def make_backend(dtype="float32") -> Backend:
    """A new backend, with the plainest kernels that it has, on this rank's GPU."""
    mpi = sys.modules.get("mpi4py.MPI")
    return get_backend(backend_name(), dtype=dtype, local_rank=mpi.COMM_WORLD.Get_rank() if mpi else 0)


def transport_name() -> str:
    """What ``--transport`` of a run is in these tests."""
    return os.environ.get(TRANSPORT, "auto")


def on_backend() -> dict[str, Any]:
    """The options of a `Grid` whose arrays are of a new backend and move as ``--transport`` says."""
    backend = make_backend()
    return {"backend": backend, "transports": Asked(backend.device) if TRANSPORT in os.environ else None}


class Asked:
    """`Transports` that look at nothing: every group has the one that was asked for."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def make(self, comm: Any, members: Any) -> Any:
        """The transport of the group whose communicator is ``comm``."""
        from mpi4py import MPI

        from gridnn.comm.launcher import short_version
        from gridnn.comm.transports.capabilities import capabilities_of
        from gridnn.comm.transports.cuda_aware import CudaAwareTransport
        from gridnn.comm.transports.host import HostTransport
        from gridnn.comm.transports.nccl import NcclTransport

        name = transport_name()
        if name == "nccl" and len(members) > 1:
            return NcclTransport(comm, self.device)
        if name == "cuda-aware":
            return CudaAwareTransport(comm, self.device, capabilities_of(short_version(MPI.Get_library_version())))
        return HostTransport(comm, self.device)
