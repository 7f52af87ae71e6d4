"""Predicted and measured: the experiments of ``--measure``, their claims and pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from gridnn.cost.machine import Machine
from gridnn.cost.machines import load_machine
from gridnn.errors import UserError
from gridnn.plots.style import COLOURS, PAPER
from gridnn.reproduce.cases import grids_of_figure_7, many
from gridnn.reproduce.catalogue import ALL, MEASURE, select
from gridnn.reproduce.measure import Measured, measure_plans
from gridnn.reproduce.report import Claim, Experiment

MEASURABLE = (("gholami", "7"),)  # what can be run on the ranks at hand
CORRELATED, MEDIAN_ERROR, REGRET = 0.9, 0.15, 0.1  # what is aimed at
MARKERS = {"batch": "o", "grid": "s", "domain": "^", "channel": "D", "integrated": "v", "model": "P"}


def measure(job: Any, paper: str, name: str, machine: str, rounds: int) -> Experiment:
    """The experiment of ``gridnn reproduce PAPER NAME --measure`` or ``gridnn reproduce measure``, on all ranks.

    `UserError` if it cannot be run, or there is one rank.
    """
    if job.size == 1:
        raise UserError(
            "one rank has no grids to compare, and moves nothing: mpirun -n 4 gridnn reproduce ... --measure"
        )
    if paper == MEASURE:
        if name != ALL:
            raise UserError(f"reproduce {MEASURE} {name}: it runs all its plans; leave {name!r} out")
        return measure_many(job, machine, rounds)
    chosen = select(paper, name)
    if tuple(chosen) != MEASURABLE:
        known = ", ".join(f"{one} {experiment}" for one, experiment in MEASURABLE)
        raise UserError(f"--measure runs {known}, not {paper} {name}: gridnn reproduce {known} --measure")
    return measure_grids(job, machine, rounds)


def measure_grids(job: Any, machine: str, rounds: int) -> Experiment:
    """Fig 7 of Gholami et al. in small: a network for CIFAR-10 on every grid of the ranks at hand."""
    model = load_machine(machine)
    found = measure_plans(job, grids_of_figure_7(job.size), model, rounds)
    batch, best = next(one for one in found if one.case.grid.startswith("1x")), min(found, key=lambda one: one.median)
    gain = batch.median / best.median
    claims = [
        *measured_claims(found),
        Claim(
            f"a grid is faster than pure batch parallelism ({batch.case.grid}), convolutions batch parallel",
            "1.1 (P=8, KNL)",
            f"{gain:.2f} ({best.case.grid})",
            gain > 1.05,
            "measured; more than 5 % asked",
        ),
    ]
    network = found[0].case.config.model.model
    title = f"{network} on every grid of {job.size} ranks, layers as in Fig 7 of Gholami et al."
    return _experiment("gholami-7-measured", title, found, claims, model)


def measure_many(job: Any, machine: str, rounds: int) -> Experiment:
    """How well the step time of many plans is predicted: several networks, strategies and grids."""
    model = load_machine(machine)
    found = measure_plans(job, many(job.size), model, rounds)
    error, worst = statistics.median(abs(one.error) for one in found), max(abs(one.error) for one in found)
    spread = statistics.median(one.seconds[-1] / one.seconds[0] for one in found)
    claims = [
        Claim(
            f"median error of the predicted step time over {len(found)} plans",
            f"under {MEDIAN_ERROR:.0%} (aim)",
            f"{error:.1%}",
            error < MEDIAN_ERROR,
            f"machine {model.name}; the worst plan {worst:.0%}; of a plan, the slowest step takes {spread:.2f} times "
            "the fastest",
        ),
        *measured_claims(found),
    ]
    return _experiment("measure", f"Step time of {len(found)} plans on {job.size} ranks", found, claims, model)


def measured_claims(found: Sequence[Measured]) -> Iterator[Claim]:
    """What is claimed of any set of plans: integers, order, and the choice that the prediction would make."""
    words = [sum(one.words[i] for one in found) for i in (0, 1)]
    wrong = [str(one.case) for one in found if not one.equal]
    why = f"not so: {', '.join(wrong)}" if wrong else "words and messages, on every rank, of every plan"
    yield Claim("predicted words are those moved", *(f"{count:,}" for count in words), not wrong, why)
    if len(found) > 2:
        correlation = spearman([one.predicted for one in found], [one.median for one in found])
        text = f"rank correlation (Spearman) of predicted and measured seconds, {len(found)} plans"
        yield Claim(text, f"over {CORRELATED} (aim)", f"{correlation:.3f}", correlation > CORRELATED)
    for network in dict.fromkeys(one.case.config.model.model for one in found):
        yield _regret(network, [one for one in found if one.case.config.model.model == network])


def _regret(network: str, found: Sequence[Measured]) -> Claim:
    """How much slower the predicted best plan of a network is than the best one."""
    chosen, best = min(found, key=lambda one: one.predicted), min(found, key=lambda one: one.median)
    regret = chosen.median / best.median - 1
    why = f"predicted best {chosen.case.plan}, measured best {best.case.plan}, of {len(found)}"
    return Claim(
        f"regret of the predicted best, {network}", f"under {REGRET:.0%} (aim)", f"{regret:.1%}", regret < REGRET, why
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing theirs."""
    return statistics.correlation(*([_place(value, values) for value in values] for values in (first, second)))


def _place(value: float, values: Sequence[float]) -> float:
    below, equal = sum(other < value for other in values), sum(other == value for other in values)
    return below + (equal - 1) / 2


def _experiment(
    name: str, title: str, found: Sequence[Measured], claims: Sequence[Claim], machine: Machine
) -> Experiment:
    def draw(figure: Any) -> None:
        _scatter(figure.subplots(), found)

    rows = [_row(one, machine) for one in found]
    return Experiment(name, title, rows, claims, draw, (8, 7), f"predicted by {machine.note()}")


def _row(one: Measured, machine: Machine) -> dict[str, Any]:
    config = one.case.config
    return {
        "model": config.model.model,
        "B": config.train.batch,
        "strategy": config.plan.strategy,
        "grid": config.plan.grid,
        "machine": machine.name,
        "predicted_words": one.words[0],
        "measured_words": one.words[1],
        "predicted_s": one.predicted,
        "measured_s": one.median,
        "fastest_s": one.seconds[0],
        "slowest_s": one.seconds[-1],
        "error": one.error,
    }


def _scatter(axes: Any, found: Sequence[Measured]) -> None:
    """Predicted over measured seconds, with the line where they are equal and a band of 15 %.

    Colours are networks, markers strategies, and the texts grids.
    """
    ends = [bound for one in found for bound in (one.predicted, one.seconds[0], one.seconds[-1])]
    line = [0.7 * min(ends), 1.4 * max(ends)]
    axes.plot(line, line, color=PAPER, lw=1)
    low, high = ([factor * end for end in line] for factor in (1 - MEDIAN_ERROR, 1 + MEDIAN_ERROR))
    axes.fill_between(line, low, high, color=PAPER, alpha=0.12, label="within 15 %")
    for colour, network in zip(COLOURS, dict.fromkeys(one.case.config.model.model for one in found), strict=False):
        axes.plot([], [], "s", color=colour, label=network)
        for one in (one for one in found if one.case.config.model.model == network):
            marker = MARKERS.get(one.case.config.plan.strategy, "o")
            spread = [[one.median - one.seconds[0]], [one.seconds[-1] - one.median]]
            style = {"color": colour, "ms": 7, "mec": "white", "mew": 0.6, "lw": 0.8}
            axes.errorbar(one.median, one.predicted, xerr=spread, fmt=marker, **style)
            place = (one.median, one.predicted)
            axes.annotate(one.case.grid, place, (6, -8), textcoords="offset points", fontsize=7, color=colour)
    for strategy in dict.fromkeys(one.case.config.plan.strategy for one in found):
        axes.plot([], [], MARKERS.get(strategy, "o"), color=PAPER, label=strategy)
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line)
    axes.set(xlabel="measured seconds of a step (median; fastest to slowest)", ylabel="predicted seconds of a step")
    axes.grid(True, axis="both", which="both")
    axes.legend(loc="upper left")
