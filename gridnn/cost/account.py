"""An account of memory that is taken and comes back, without the memory."""

from __future__ import annotations

import bisect

from gridnn.kernels.cpu.pool import SLACK, SMALL, UNIT


class Taken:
    """What stands for an array: its bytes are taken while somebody refers to it."""

    __slots__ = ("_account", "block", "layer", "size")

    def __init__(self, account: Account | None = None, size: int = 0, block: int = 0, layer: str = "") -> None:
        self._account, self.size, self.block, self.layer = account, size, block, layer

    def __del__(self) -> None:
        if self._account is not None:
            self._account.give_back(self)


class Account:
    """Bytes of arrays, and the blocks in which `gridnn.kernels.cpu.pool.Pool` would give them.

    Attributes
    ----------
    used, peak : int
        Bytes that somebody refers to, and the most there were.
    at : tuple of str
        Layer and phase of the peak.
    layers : dict of str to int
        Bytes at the peak by the layer in whose turn they were taken.
    taken : int
        Bytes that the pool has taken from the system: blocks are rounded up, and wait for a request that they fit.
    """

    def __init__(self) -> None:
        self.used = self.peak = self.taken = 0
        self.at, self.layers = ("", "forward"), {}
        self._where = self.at
        self._held: dict[str, int] = {}
        self._free: list[int] = []

    def enter(self, layer: str, phase: str) -> None:
        """Say whose turn it is."""
        self._where = (layer, phase)

    def take(self, size: int) -> Taken:
        """Take ``size`` bytes until nobody refers to what comes back."""
        layer = self._where[0]
        self.used += size
        self._held[layer] = self._held.get(layer, 0) + size
        if self.used > self.peak:
            self.peak, self.at, self.layers = self.used, self._where, {k: v for k, v in self._held.items() if v}
        return Taken(self, size, self._block(-(-size // UNIT) * UNIT) if size >= SMALL else 0, layer)

    def give_back(self, taken: Taken) -> None:
        """Called when the last reference to ``taken`` is gone."""
        self.used -= taken.size
        self._held[taken.layer] -= taken.size
        if taken.block:
            bisect.insort(self._free, taken.block)

    def _block(self, size: int) -> int:
        """The block that the pool chooses for a request of ``size`` bytes."""
        place = bisect.bisect_left(self._free, size)
        if place < len(self._free) and self._free[place] <= SLACK * size:
            return self._free.pop(place)
        self.taken += size
        return size
