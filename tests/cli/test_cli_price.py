"""``gridnn plan``, ``price``, ``explain`` and ``compare``: what they print, write and refuse; none starts MPI."""

from __future__ import annotations

import csv
import json
import sys

import pytest
from launch import clean_environment, run

from gridnn.cli.main import app

ALEXNET = ("--model", "alexnet", "--batch", "256", "--ranks", "8", "--machine", "cori-knl")
TINY = ("--model", "mlp", "--shape", "6", "--widths", "3", "--classes", "2")


def gridnn(*args: object):
    """A command with mpi4py out of reach."""
    code = "import sys; sys.modules['mpi4py'] = None; from gridnn.cli.main import main; main()"
    return run([sys.executable, "-c", code, *map(str, args)], 60, clean_environment())


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan's file, the prices beside it, and what was printed."""
    folder = tmp_path_factory.mktemp("plan")
    plan, prices = folder / "plan.json", folder / "prices.json"
    done = gridnn("plan", *ALEXNET, "-o", plan, "--json", prices, "--pictures", folder)
    assert done.returncode == 0, done.stderr
    return plan, json.loads(prices.read_text()), done.stdout


def test_a_plan_without_a_data_set_says_what_it_takes_and_of_what(planned):
    _, prices, text = planned
    assert all(word in text for word in ("conv1", "fc3", "/ bound", "samples/s", "memory of a rank", "cori-knl"))
    assert "estimates:" in text
    assert prices["seconds"] > 0
    assert {layer["name"] for layer in prices["layers"]} >= {"conv1", "fc1", "loss"}


def test_it_is_never_slower_than_a_named_strategy(planned):
    _, prices, _ = planned
    baselines = [row for row in prices["baselines"] if row["seconds"] is not None]
    assert {row["strategy"] for row in baselines} >= {"batch", "grid", "integrated", "domain"}
    assert prices["seconds"] <= min(row["seconds"] for row in baselines) * (1 + 1e-12)


def test_pictures_are_drawn(planned):
    for name in ("splits", "timeline", "plans"):
        path = planned[0].parent / f"{name}.png"
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_a_file_has_the_price_that_it_was_made_with(planned, tmp_path):
    plan, prices, _ = planned
    again = tmp_path / "again.json"
    done = gridnn("price", plan, "--json", again)
    assert done.returncode == 0, done.stderr
    assert json.loads(again.read_text())["seconds"] == prices["seconds"]
    other = gridnn("price", plan, "--batch", 512)
    assert other.returncode == 0, other.stderr
    assert "the plan was made for batch 256 on cori-knl" in other.stdout


def test_the_papers_formulas_stand_beside_what_moves(planned, tmp_path):
    plan, prices = tmp_path / "plan.json", tmp_path / "prices.json"
    assert gridnn("plan", *ALEXNET, "--strategy", "integrated", "-o", plan, "--json", prices).returncode == 0
    done = gridnn("price", plan, "--cost", "paper")
    assert done.returncode == 0, done.stderr
    *_, exact = done.stdout.splitlines()
    assert exact.startswith(f"exact: {sum(json.loads(prices.read_text())['words'].values()):,} words")
    assert "redistributed" in done.stdout
    assert "did you mean paper" in gridnn("price", planned[0], "--cost", "papers").stderr


def test_explain_shows_the_alternatives_and_where_the_choice_turns(planned):
    done = gridnn("explain", planned[0], "fc1")
    assert done.returncode == 0, done.stderr
    assert "this" in done.stdout
    assert "fc1 at other batches and numbers of ranks" in done.stdout
    first = next(line for line in done.stdout.splitlines() if line.strip().startswith("this"))
    assert json.loads(planned[0].read_text())["splits"]["fc1"] in first


def test_explain_names_the_layer_that_another_one_follows(planned):
    done = gridnn("explain", planned[0], "relu1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "explain 'conv1', it follows" in done.stderr
    assert "did you mean fc" in gridnn("explain", planned[0], "fcl").stderr


def test_compare_lists_the_layers_that_differ(planned, tmp_path):
    other = tmp_path / "batch.json"
    assert gridnn("plan", *ALEXNET, "--grid", "1x8", "--strategy", "batch", "-o", other).returncode == 0
    done = gridnn("compare", planned[0], other)
    assert done.returncode == 0, done.stderr
    assert "fc1" in done.stdout
    assert "B: batch" in done.stdout
    assert "both divide every layer" in gridnn("compare", other, other).stdout


def test_a_sweep_prices_every_grid(tmp_path):
    table = tmp_path / "grids.csv"
    done = gridnn("plan", *ALEXNET, "--sweep", "--csv", table, "--pictures", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(table.read_text().splitlines()))
    grids = [row["grid"] for row in rows if row["strategy"] == "grid"]
    assert grids == ["1x8", "2x4", "4x2", "8x1"]
    assert (tmp_path / "grids.png").stat().st_size > 10_000


def test_sensitivity_gives_a_verdict():
    done = gridnn("plan", "--model", "lenet", "--batch", 64, "--ranks", 4, "--machine", "cori-knl", "--sensitivity")
    assert done.returncode == 0, done.stderr
    assert "if the machine were otherwise" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(("the choice stands", "too close to call"))


@pytest.mark.parametrize("chosen", [(), ("--axes", "all"), ("--strategy", "layerwise")])
def test_trying_every_choice_finds_the_same_optimum(chosen, capsys):
    args = ("plan", "--model", "lenet", "--batch", "64", "--ranks", "4", "--machine", "cori-knl", "--verify", *chosen)
    assert app(list(args), standalone_mode=False) is None
    assert capsys.readouterr().out.splitlines()[-1].startswith("verify: the same optimum")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("plan", *ALEXNET[:-1], "cori-knn"), "did you mean cori-knl"),
        (("plan", "--model", "alexnett", "--ranks", "2"), "did you mean alexnet"),
        (("plan", *ALEXNET, "--csv", "x.csv"), "--csv x.csv is for a sweep: add --sweep"),
        (("plan", *ALEXNET, "--memory", "many"), "--memory 'many'"),
        (("plan", *ALEXNET, "--verify", "--memory", "1GB"), "leave --memory 1GB out"),
        (("plan", *ALEXNET, "--verify", "--grid", "1x8"), "--strategy optimal or layerwise, not grid"),
        (("plan", *ALEXNET, "--memory", "1MB"), "memory"),
        (("plan", *ALEXNET, "--grid", "1x8", "--strategy", "batch", "--memory", "1MB"), "this plan needs"),
        (("plan", *TINY, "--batch", "2", "--ranks", "4096"), "more than this network can use"),
        (("price", "nothing.json"), "plan nothing.json: No such file"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_a_line(args, text, capsys):
    status = app(list(args), standalone_mode=False)
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert text in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_plan_by_hand_says_that_it_lacks_its_network(tmp_path):
    path = tmp_path / "hand.json"
    path.write_text('{"version": 1, "grid": "2x2", "splits": {}}')
    done = gridnn("price", path)
    assert done.returncode == 2
    assert "does not say for which network" in done.stderr
