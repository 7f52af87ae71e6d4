"""The tables and figures of Jia, Lin, Qi, Aiken 2018 (arXiv 1802.04924), OptCNN, with its own cost.

What agrees and what does not is told in docs/optcnn.md.
"""

from __future__ import annotations

from collections.abc import Callable

from gridnn.reproduce.optcnn_figures import fig7, fig8
from gridnn.reproduce.optcnn_tables import table3, table5
from gridnn.reproduce.report import Experiment

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"table3": table3, "table5": table5, "fig7": fig7, "fig8": fig8}
