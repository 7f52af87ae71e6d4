"""``cupy.lib.stride_tricks`` of the stand-in."""

from cupy._creation import as_strided

__all__ = ["as_strided"]
