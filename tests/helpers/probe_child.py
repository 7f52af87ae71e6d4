"""Children of the test of CUDA-aware MPI: one that is right, on host memory, and some that are not."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np

from gridnn.comm.transports.capabilities import capabilities_of
from gridnn.comm.transports.probe_calls import ELEMENTS, PASSED, STARTED, TRYING, Calls, say

NOTHING = {name: lambda *_: None for name in ("mark", "wait", "hold", "bind")}
POINTERS = SimpleNamespace(pointer=lambda array: array.ctypes.data, **NOTHING)
HOST_MEMORY = SimpleNamespace(asarray=np.array, to_host=np.asarray, device=POINTERS)
FORGETFUL = SimpleNamespace(asarray=np.array, to_host=lambda a: a * 0, device=POINTERS)


def main(how: str) -> None:
    if how == "no gpu":
        sys.exit("cudaErrorNoDevice: no CUDA-capable device is detected")
    if how in ("right", "wrong"):
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        say(f"{STARTED}{comm.Get_size()}")
        backend = HOST_MEMORY if how == "right" else FORGETFUL
        for size in ELEMENTS:
            found = Calls(comm, backend, capabilities_of(MPI.Get_library_version()), size).check()
            if found:
                say(found)
                comm.Abort(1)
        say(PASSED)
    elif how == "crash":
        say(f"{STARTED}2")
        say(f"{TRYING}Allreduce of 257 float32")
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "hang":
        say(f"{STARTED}2")
        say(f"{TRYING}Allgatherv of 257 float32")
        time.sleep(600)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
