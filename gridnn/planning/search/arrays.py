"""The types of the arrays that the searches calculate with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]  # seconds, words, bytes
Integers = NDArray[np.int64]  # numbers of parts, sizes, places
Flags = NDArray[np.bool_]
