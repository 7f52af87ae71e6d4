"""``cupy.cuda.nvrtc``: the compiler is there."""


def getVersion() -> tuple[int, int]:
    """The version of NVRTC."""
    return 12, 9
