"""OptCNN's cost in every reading of what the paper leaves open (Jia, Lin, Qi, Aiken 2018, arXiv 1802.04924)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gridnn.planning.search.layerwise_costs import LayerwiseCosts
from gridnn.planning.search.timing import link_seconds


class Reading(NamedTuple):
    """What the paper leaves open; the first reading is that of the strategy ``layerwise``."""

    # {"spread", "one"}: whether each of the devices that share a part of the weights serves its share to the others
    # (which moves what an all-reduce does), or one of them serves all
    server: str = "spread"
    duplex: bool = False  # whether a link carries bytes in and bytes out at once


READING = Reading()


@dataclass(frozen=True)
class OptCNN(LayerwiseCosts):
    """`LayerwiseCosts` in another reading."""

    reading: Reading = READING

    def _served(self, size: float, members: np.ndarray, share: int, sharing: int) -> np.ndarray | float:
        if self.reading.server == "spread":
            return super()._served(size, members, share, sharing)
        serves = members < share
        return (serves[:, None] | serves) * size

    def _link_seconds(self, inside: list[np.ndarray]) -> np.ndarray:
        return link_seconds(self.machine, self.ranks, inside, self.reading.duplex)
