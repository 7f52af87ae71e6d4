"""The child of gridnn's own test of device pointers (`gridnn.comm.transports.probe`), on the stand-in device."""

from __future__ import annotations

import gridnn.kernels
from gridnn.comm.transports import probe_calls
from standin_driver.backend import DriverBackend
from standin_driver.library import Driver

if __name__ == "__main__":
    gridnn.kernels.get_backend = lambda name, **options: DriverBackend(Driver())
    probe_calls.main()
