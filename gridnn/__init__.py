"""Training of neural networks on a Pr x Pc grid of MPI processes, and what the grid costs in communication.

Importing this package imports nothing else: neither NumPy nor MPI.

Attributes
----------
__version__ : str
    The version of the distribution that is installed.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown (gridnn is not installed: see pyproject.toml)"
