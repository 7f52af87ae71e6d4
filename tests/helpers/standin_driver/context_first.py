"""Make a context before MPI starts, then run a module: ``python -m standin_driver.context_first MODULE ...``.

Open MPI's shared-memory component for CUDA (smcuda: one process copies from another's device memory, CUDA IPC) wants a
current context in MPI_Init and is left out without one; messages then go through host memory in small pieces.
"""

from __future__ import annotations

import runpy
import sys

from standin_driver.library import Driver

if __name__ == "__main__":
    driver = Driver()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
