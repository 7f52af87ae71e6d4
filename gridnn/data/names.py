"""The data sets that have a name, without what reads them."""

from __future__ import annotations

DATASETS = ("digits", "cifar10", "mnist", "synthetic", "volumes")
