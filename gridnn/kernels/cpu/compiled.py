"""What the compiled loops share; imported only where numba is installed and asked for.

Every array is the flat memory that it touches (`strided.StridedView`). ``x_at`` and the like are the strides, in
elements, between two neighbouring outputs along n, d, h and w; ``counts`` counts the outputs along these. So one
compiled form serves whole arrays and parts of larger ones, any stride and dilation, and one to three space axes. The
innermost loops run over channels and become vector instructions; they are written out, because a call in their place
costs more than they do.
"""

from __future__ import annotations

from contextlib import suppress

from numba import njit


class Cache:
    """numba's cache of a function, that never ends a run: what cannot be read is emptied, and compiled anew.

    A crashed node, a full quota or another numba leave files of which reading raises anything at all.
    """

    def __init__(self, cache):
        self.cache = cache

    def __getattr__(self, name):
        return getattr(self.cache, name)

    def load_overload(self, *args):
        """What was compiled before, or None."""
        try:
            return self.cache.load_overload(*args)
        except Exception:
            with suppress(Exception):
                self.cache.flush()
            return None

    def save_overload(self, *args):
        """Keep what was compiled, where that is possible."""
        with suppress(Exception):
            self.cache.save_overload(*args)


def compiled(function):
    """``function``, to be compiled at its first call; the result is kept beside this file or in the user's cache."""
    try:
        made = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # numba finds no place that can be written to: it is compiled in every process
        return njit(nogil=True, error_model="numpy")(function)
    made._cache = Cache(made._cache)
    return made


@compiled  # the loops of other files keep what they were compiled with: after a change here, delete their caches
def line_at(line, counts, at):
    """Where the first output of a line (n, d, h) lies."""
    rest, h = line // counts[2], line % counts[2]
    return rest // counts[1] * at[0] + rest % counts[1] * at[1] + h * at[2]
