"""The strategy ``optimal``: what it finds, that no named strategy is faster, its limits, and that it runs."""

from __future__ import annotations

import functools
import re

import pytest
from running import LENET, MLP, folder, job_of, same, trained
from test_search_model import MACHINE, branches, chain, mlp

from gridnn import layers as L
from gridnn.cost.machine import Compute, Level, Machine
from gridnn.cost.price import price
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.layout.split import REPLICAS, Split
from gridnn.network import Network
from gridnn.planning.rules import RULES, SEARCHES, STRATEGIES, make_plan
from gridnn.planning.search.cost_model import CostModel
from gridnn.planning.search.exhaustive import search
from gridnn.planning.search.optimal import plan_optimal
from gridnn.planning.search.request import PlanRequest
from gridnn.planning.search.strategies import SEARCHED, plan_for
from gridnn.program.program import Program
from gridnn.train.audit import audit
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run
from gridnn.units import parse_memory


def wide() -> Network:
    """Many weights, few samples: the model is divided."""
    net = Network((256,))
    for number in range(4):
        net.add(f"fc{number}", L.Linear(4096 if number % 2 == 0 else 256))
        net.add(f"relu{number}", L.ReLU())
    net.add("fc4", L.Linear(8))
    net.add("loss", L.SoftmaxCrossEntropy())
    return net


def seconds(network: Network, plan, batch: int) -> float:
    return price([Program(network, plan, batch)], MACHINE).seconds


def test_consecutive_layers_are_paired_column_then_row():
    """Divided co and then ci, two layers move nothing between them: nobody told the search."""
    found = plan_optimal(PlanRequest(wide(), 4, 8, MACHINE))
    for first, second in (("fc0", "fc1"), ("fc2", "fc3")):
        assert found.plan.splits[first] == Split.of(co=4) == found.plan.splits[f"relu{first[-1]}"]
        assert found.plan.splits[second] == Split.of(ci=4)
    assert found.certificate == "optimal" and found.plan.strategy == "optimal"
    program = Program(wide(), found.plan, 8)
    moved = {step.name: step.edges[0].transfer for step in program.layers}
    assert moved["fc1"].stages == () == moved["fc3"].stages


@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("network", [mlp(), chain(), branches(), wide()], ids=["mlp", "chain", "branches", "wide"])
def test_no_named_strategy_is_faster_on_any_grid(network, ranks):
    found, batch = plan_optimal(PlanRequest(network, ranks, 24, MACHINE)), 24
    assert found.price.seconds == min(one.seconds for one in found.candidates)
    assert found.price.seconds == pytest.approx(seconds(network, found.plan, batch))
    for rule in RULES:
        for rows in (r for r in range(1, ranks + 1) if ranks % r == 0):
            try:
                plan = make_plan(rule, network, GridShape(rows, ranks // rows), batch, replicas=True)
            except UserError:
                continue
            assert found.price.seconds <= seconds(network, plan, batch) * (1 + 1e-9), (rule, rows)


def test_the_optimum_of_the_model_is_that_of_an_exhaustive_search():
    model = CostModel(mlp(32, 32), 4, 8, MACHINE)
    found = plan_optimal(PlanRequest(mlp(32, 32), 4, 8, MACHINE))
    assert found.bound == pytest.approx(search(model.graph).value) and found.compared == sum(
        map(len, model.space.values())
    )


def test_the_search_finds_the_same_plan_every_time():
    first, second = (plan_optimal(PlanRequest(branches(), 12, 24, MACHINE)).plan for _ in range(2))
    assert first == second


def test_any_number_of_ranks_is_used_and_small_layers_are_repeated():
    """Two classes on 7 x 16 ranks: the loss has replicas, the layers before it have none."""
    splits = plan_optimal(PlanRequest(wide(), 112, 16, MACHINE)).plan.splits
    assert all(split.ranks == 112 for split in splits.values())
    assert splits["fc0"].parts(REPLICAS) == 1 < splits["loss"].parts(REPLICAS)


def test_two_axes_beside_copies_are_enough_of_a_restriction():
    few, every = (CostModel(chain(), 8, 16, MACHINE, at_most=at_most) for at_most in (2, None))
    assert sum(map(len, few.space.values())) < sum(map(len, every.space.values()))
    few, every = (plan_optimal(PlanRequest(chain(), 8, 16, MACHINE, axes=axes)) for axes in ("few", "all"))
    assert every.bound <= few.bound


def test_every_search_that_has_a_name_is_there():
    assert tuple(SEARCHED) == SEARCHES


class TestMemory:
    def test_a_plan_within_the_limit_is_found(self):
        free = plan_optimal(PlanRequest(mlp(512, 512, 512), 4, 256, MACHINE))
        tight = free.price.memory.total * 0.9
        found = plan_optimal(PlanRequest(mlp(512, 512, 512), 4, 256, MACHINE, memory=tight))
        assert found.price.memory.total <= tight < free.price.memory.total
        assert found.price.seconds >= free.price.seconds
        assert found.certificate == "optimal" or found.certificate.startswith("within ")

    @pytest.mark.parametrize(
        ("network", "ranks", "batch", "memory", "text"),
        [
            (
                mlp(512, 512),
                4,
                64,
                1.2e6,
                r"4 ranks at batch 64 fits into 1.2 MB .* weights, .* 'fc1': use about \d+ ranks",
            ),
            (
                chain(),
                2,
                256,
                12e6,
                r"of it activations, most for layer '\w+': use about \d+ ranks or about --batch \d+",
            ),
        ],
        ids=["weights", "activations"],
    )
    def test_a_limit_that_nothing_meets_is_refused_with_what_would(self, network, ranks, batch, memory, text):
        with pytest.raises(UserError, match=text) as refused:
            plan_optimal(PlanRequest(network, ranks, batch, MACHINE, memory=memory))
        enough = int(re.search(r"use about (\d+) ranks", str(refused.value))[1])
        assert plan_optimal(PlanRequest(network, enough, batch, MACHINE, memory=memory)).price.memory.total <= memory

    def test_a_rule_takes_a_grid_within_the_limit(self):
        plans = {rows: make_plan("grid", wide(), GridShape(rows, 4 // rows), 8) for rows in (1, 2, 4)}
        needs = {r: price([Program(wide(), plan, 8)], MACHINE).memory.total for r, plan in plans.items()}
        assert plan_for("grid", PlanRequest(wide(), 4, 8, MACHINE, memory=needs[4] * 1.01)).grid == GridShape(4, 1)
        with pytest.raises(UserError, match="no grid of 4 ranks lets strategy 'batch' fit into"):
            plan_for("batch", PlanRequest(wide(), 4, 8, MACHINE, memory=needs[4]))

    @pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("900 MiB", 900 * 2**20), ("2e9", 2e9), ("1kb", 1e3)])
    def test_bytes_are_read(self, text, size):
        assert parse_memory(text) == size

    @pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "nan", "16 apples"])
    def test_what_is_no_size_is_refused(self, text):
        with pytest.raises(UserError, match=r"--memory .*write bytes a rank as 16GB"):
            parse_memory(text)


class TestStrategies:
    def test_more_ranks_than_the_network_can_use_are_refused(self):
        small = Network((2,))
        small.add("fc", L.Linear(2))
        small.add("loss", L.SoftmaxCrossEntropy())
        with pytest.raises(
            UserError, match=r"64 ranks are more .* at batch 2: .* more than 8 parts \('fc'\): use 8 ranks"
        ):
            plan_optimal(PlanRequest(small, 64, 2, MACHINE))

    def test_a_rule_without_a_grid_takes_its_cheapest(self):
        for rule in ("grid", "integrated"):
            plan = plan_for(rule, PlanRequest(chain(), 8, 16, MACHINE))
            every = [make_plan(rule, chain(), GridShape(r, 8 // r), 16, replicas=True) for r in (1, 2, 4, 8)]
            assert seconds(chain(), plan, 16) <= min(seconds(chain(), one, 16) for one in every) * (1 + 1e-9)

    def test_domain_and_group_say_which_grid(self):
        assert plan_for("domain", PlanRequest(chain(), 8, 16, None, domain=(2, 2))).grid == GridShape(4, 2)
        assert plan_for("splitbrain", PlanRequest(chain(), 8, 16, None, group=2)).grid == GridShape(2, 4)
        with pytest.raises(UserError, match="--domain 3x1 has 3 parts, which do not divide 8 ranks"):
            plan_for("domain", PlanRequest(chain(), 8, 16, None, domain=(3, 1)))

    def test_a_given_grid_names_rows_and_columns(self):
        plan = plan_for("optimal", PlanRequest(chain(), 8, 16, MACHINE, GridShape(4, 2)))
        assert (
            plan.grid == GridShape(4, 2)
            and plan.splits == plan_for("optimal", PlanRequest(chain(), 8, 16, MACHINE)).splits
        )
        with pytest.raises(UserError, match="grid 3x2 needs 6 ranks"):
            plan_for("optimal", PlanRequest(chain(), 8, 16, MACHINE, GridShape(3, 2)))

    def test_unknown_names_and_impossible_rules_are_refused(self):
        with pytest.raises(UserError, match="unknown strategy 'optimum': did you mean optimal"):
            plan_for("optimum", PlanRequest(chain(), 8, 16, MACHINE))
        with pytest.raises(UserError, match="strategy 'model' on grid"):
            plan_for("model", PlanRequest(chain(), 64, 16, MACHINE))

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_every_strategy_plans_one_rank_and_four(self, strategy):
        for ranks in (1, 4):
            plan = plan_for(strategy, PlanRequest(chain(), ranks, 16, MACHINE, replicas=True))
            assert plan.grid.size == ranks and plan.strategy == strategy
            Program(chain(), plan, 16)


class TestConfig:
    def test_the_default_depends_on_the_grid(self):
        free, fixed = RunConfig(), RunConfig.of(grid="2x2")
        assert free.plan.divider == "optimal" and fixed.plan.divider == "grid"
        assert free.as_dict()["strategy"] == "optimal" and free.as_dict()["machine"] == "generic-cpu"
        assert "machine" not in fixed.as_dict()

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"grid": "2x2", "machine": "frontier"},
                "--machine frontier has no effect with --grid 2x2 --strategy grid",
            ),
            ({"plan": "p.json", "memory": "1GB"}, "--memory 1GB has no effect with --plan p.json"),
            (
                {"strategy": "layerwise", "memory": "1GB"},
                "--memory 1GB has no effect with --grid auto --strategy layerwise",
            ),
            ({"memory": "much"}, "--memory 'much': write bytes"),
            ({"strategy": "best"}, "unknown strategy 'best'"),
        ],
    )
    def test_options_without_effect_are_refused(self, options, text):
        with pytest.raises(UserError, match=text):
            RunConfig.of(**options).validate()

    def test_options_with_an_effect_are_not(self):
        RunConfig.of(machine="frontier", memory="16GB").validate()
        RunConfig.of(grid="2x2", strategy="optimal", machine="frontier", memory="16GB").validate()
        RunConfig.of(strategy="integrated", memory="16GB").validate()

    def test_a_plan_file_says_the_grid(self, tmp_path):
        made = prepare_run(LENET.replaced(grid="1x4", strategy="model", replicas=True), 4)
        made.plan.save(tmp_path / "plan.json")
        planned = prepare_run(LENET.replaced(plan=str(tmp_path / "plan.json")), 4)
        assert planned.plan.grid == GridShape(1, 4)


RUNS = {"lenet": LENET, "mlp": MLP}


@functools.cache
def serial(name: str):
    """The run on one rank, made by every rank for itself."""
    from mpi4py import MPI

    return trained(RUNS[name], MPI.COMM_SELF)


@pytest.mark.mpi
@pytest.mark.parametrize("name", RUNS)
def test_plans_run_give_the_serial_losses_and_the_predicted_words(comm, name):
    same(trained(RUNS[name], comm), serial(name), name)
    result = audit(RUNS[name].replaced(steps=2), job_of(comm))
    assert result.equal


@pytest.mark.mpi
@pytest.mark.parametrize("axes", ["few", "all"])
@pytest.mark.parametrize("name", RUNS)
def test_plans_of_every_search_run(comm, name, axes):
    """On a machine that makes the search divide: a slow memory and cheap messages."""
    network = prepare_run(RUNS[name].replaced(grid="1x1"), 1).network
    rates = dict.fromkeys(("gemm", "conv"), ((1.0, 10000000.0),))
    machine = Machine("slow", (Level("network", None, 1e-7, 1e-9),), Compute(rates, 1e7))
    plan = plan_optimal(PlanRequest(network, comm.size, RUNS[name].train.batch, machine, axes=axes)).plan
    with folder(comm) as path:
        if comm.rank == 0:
            plan.save(path / "plan.json")
        comm.Barrier()
        planned = RUNS[name].replaced(plan=str(path / "plan.json"))
        same(trained(planned, comm), serial(name), str(plan.as_dict()))
