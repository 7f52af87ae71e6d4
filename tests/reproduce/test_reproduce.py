"""The experiments of the papers: Gholami's bars and claims, the files, the command, and predicted beside measured."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from fractions import Fraction

import pytest
from closed_forms import grid_parallel, integrated
from launch import clean_environment, mpirun_command, run

from gridnn.cli import reproduce as command
from gridnn.cost.machines import load_machine
from gridnn.errors import UserError
from gridnn.records import write_rows
from gridnn.reproduce import gholami
from gridnn.reproduce import gholami_bars as bars
from gridnn.reproduce.cases import Case, grids, grids_of_figure_7, many
from gridnn.reproduce.gholami_claims import PRINTED, best
from gridnn.reproduce.gholami_cost import Sizes, Term, best_rows, sizes
from gridnn.reproduce.measure import Measured
from gridnn.reproduce.measured import measured_claims, spearman
from gridnn.reproduce.report import Claim, Experiment, agrees, publish
from gridnn.train.config import RunConfig

LAYERS = sizes(bars.alexnet_with_loss())
FULLY_CONNECTED = [layer for layer in LAYERS if not layer.kernel]
NO_PICTURES = importlib.util.find_spec("matplotlib") is None
COLUMNS = ["figure", "B", "P", "grid", "compute_s", "model_comm_s", "batch_comm_s", "total_s"]


# -- AlexNet and the closed forms ---------------------------------------------------------------------------------


def test_sizes_of_alexnet_are_those_of_the_paper():
    assert [layer.weights for layer in LAYERS] == [
        *(34848, 307200, 884736, 663552, 442368),
        *(37748736, 16777216, 4096000),
    ]
    assert sum(layer.weights for layer in LAYERS) == 60_954_656
    assert [layer.outputs for layer in FULLY_CONNECTED] == [4096, 4096, 1000]


def test_the_halo_as_drawn():
    words = sum(bars.halo_drawn(layer, Fraction(1)).words for layer in LAYERS if layer.kernel)
    assert words == 162_769.5


def test_one_layer_by_hand():
    layer = Sizes("fc", weights=1200, inputs=20, outputs=60, inside=(20,), outside=(60,), kernel=())
    model, gradients = bars.step([layer], (24, 6, 3), bars.GRID)
    assert model == Term(3 * 2, 3 * (24 // 2) * 60 * 2 // 3)
    assert gradients == Term(2 * 1, 2 * (1200 // 3) // 2)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_step_is_8_and_9_as_printed(rows):
    grid, convolutions = (64, 8, rows), [layer for layer in LAYERS if layer.kernel]
    assert sum(bars.step(LAYERS, grid, bars.GRID), Term()) == grid_parallel(LAYERS, 64, rows, 8 // rows)
    domain = bars.Reading("domain", bars.halo_printed, redistribution=False)
    expected = integrated(FULLY_CONNECTED, convolutions, 64, rows, 8 // rows)
    assert sum(bars.step(LAYERS, grid, domain), Term()) == expected


# -- the figures --------------------------------------------------------------------------------------------------

CASES = {
    "7": (bars.PURE_BATCH, bars.STRONG),
    "9": (bars.PURE_BATCH, bars.WEAK),
    "10": (bars.BEYOND_BATCH, bars.LARGE),
}


@pytest.mark.parametrize("figure, reading, count", [("6", bars.DOMAIN_DRAWN, 26), ("7", bars.PURE_BATCH, 18)])
def test_bars_are_within_4_percent_of_the_drawn_ones(figure, reading, count):
    drawn = {(one.figure, one.grid): one for one in bars.drawn()}
    made = [one for panel in bars.panels(figure, LAYERS, reading, bars.STRONG) for one in panel]
    found = [(one, drawn[one.figure, one.grid]) for one in made if (one.figure, one.grid) in drawn]
    assert len(found) == count
    for ours, paper in found:
        assert ours.total == pytest.approx(paper.total, rel=0.04)
        assert ours.communication == pytest.approx(paper.communication, rel=0.04)


def test_figure_6_does_not_follow_8_as_printed():
    *_, panel = bars.panels("6", LAYERS, bars.GRID, bars.STRONG)
    assert best(panel).grid == "4x128"
    assert panel[0].total / best(panel).total == pytest.approx(1.58, abs=0.01)
    assert panel[0].communication / best(panel).communication == pytest.approx(2.24, abs=0.01)


@pytest.mark.parametrize("figure", CASES)
def test_winners_speedups_and_the_oracle(figure):
    """The winner of every panel is the paper's, and the power of two nearest to Pr*."""
    reading, cases = CASES[figure]
    for panel in bars.panels(figure, LAYERS, reading, cases):
        winner, said = best(panel), PRINTED[figure][panel[0].batch, panel[0].ranks]
        assert winner.grid == (said.grid or winner.grid)
        assert panel[0].total / winner.total == pytest.approx(said.total, abs=0.05)
        rows = best_rows(FULLY_CONNECTED, winner.batch, winner.ranks)
        assert winner.rows == min((one.rows for one in panel), key=lambda size: abs(size - rows))


def test_the_oracle_is_where_the_closed_form_is_least():
    rows = best_rows(FULLY_CONNECTED, 2048, 512)

    def words(size):
        beside = 3 * 2048 * size / 512 * (size - 1) / size * sum(layer.outputs for layer in FULLY_CONNECTED)
        return beside + 2 * (512 / size - 1) / 512 * sum(layer.weights for layer in FULLY_CONNECTED)

    assert words(rows) < min(words(rows * 0.98), words(rows * 1.02))


def test_overlap_hides_no_more_than_there_is():
    *_, panel = bars.panels("8", LAYERS, bars.PURE_BATCH, bars.STRONG)
    for share in (2 / 3, 1.0):
        for one in panel:
            shown = bars.overlapped(one, share)
            assert max(one.compute, one.summed) <= shown.total <= one.total
    assert best([bars.overlapped(one, 1.0) for one in panel]).grid == "4x128"


@pytest.mark.parametrize("name", gholami.EXPERIMENTS)
def test_every_experiment_is_tidy_and_makes_claims(name):
    made = gholami.EXPERIMENTS[name]()
    assert made.name == f"gholami-{name}"
    assert made.rows and made.claims and len({tuple(row) for row in made.rows}) == 1
    assert all(claim.why or claim.holds for claim in made.claims)


def test_what_does_not_hold_is_said():
    broken = {claim.text for claim in gholami.figure6().claims if not claim.holds}
    assert "the bars of Fig 6 follow (8), as the text says, within 4%" in broken
    assert not any(claim for claim in gholami.figure7().claims if not claim.holds)


def test_a_reduce_scatter_moves_two_units_where_an_all_reduce_moves_three():
    made = gholami.EXPERIMENTS["exact"]()
    for row in made.rows:
        assert row["exact_model_words"] <= row["all_reduce_model_words"]
        assert row["exact_batch_words"] == row["all_reduce_batch_words"]
    units = {claim.ours for claim in made.claims if "between fc1 and fc2" in claim.text}
    assert units == {"3", "2"}


# -- files --------------------------------------------------------------------------------------------------------


def test_agrees_is_relative():
    assert agrees("a", 100.0, 103.9, 0.04).holds
    assert not agrees("a", 100.0, 95.9, 0.04).holds
    assert "-4.1%" in agrees("a", 100.0, 95.9, 0.04).why


def test_rows_are_written_as_csv(tmp_path):
    path = tmp_path / "rows.csv"
    write_rows(str(path), [{"a": 1, "b": 0.1234567891}, {"a": 2, "b": None}])
    assert path.read_text() == "a,b\n1,0.123457\n2,\n"


@pytest.mark.skipif(NO_PICTURES, reason="pictures need matplotlib")
@pytest.mark.parametrize("name", ["4", "7"])
def test_publish_writes_rows_claims_and_a_picture(tmp_path, name):
    files = publish(gholami.EXPERIMENTS[name](), tmp_path / "new")
    assert [path.rsplit("/")[-1] for path in files] == [
        f"gholami-{name}{end}" for end in (".csv", "-claims.csv", ".png")
    ]
    picture = (tmp_path / "new" / f"gholami-{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 30_000


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    empty = Experiment("x", "x", [{"a": 1}], [Claim("a", "1", "1", True)], lambda figure: None)
    with pytest.raises(UserError, match=r"--output .* cannot be written"):
        publish(empty, tmp_path / "file")


# -- the command --------------------------------------------------------------------------------------------------


def gridnn(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "gridnn", "reproduce", *arguments],
        capture_output=True, text=True, timeout=100, env=clean_environment(), cwd=cwd,
    )  # fmt: skip


@pytest.mark.skipif(NO_PICTURES, reason="pictures need matplotlib")
def test_figure_7_has_exactly_the_columns_asked_for(tmp_path):
    path = tmp_path / "seven.csv"
    done = gridnn("gholami", "7", "--csv", str(path), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    assert len(rows) == 4 + 6 + 8 + 10
    for row in rows:
        parts = sum(float(row[name]) for name in ("compute_s", "model_comm_s", "batch_comm_s"))
        assert parts == pytest.approx(float(row["total_s"]), rel=1e-4)
    assert "Pr* picks the best grid" in done.stdout


@pytest.mark.skipif(NO_PICTURES, reason="pictures need matplotlib")
def test_claims_that_do_not_hold_are_printed_as_such(tmp_path, capsys):
    command.reproduce("gholami", "4", output=str(tmp_path))
    printed = capsys.readouterr().out
    assert " NO " in printed and " yes " in printed and "gholami-4.png" in printed


@pytest.mark.parametrize(
    "options, text",
    [
        ({"paper": "golami"}, "unknown paper 'golami': did you mean gholami?"),
        ({"paper": "gholami", "name": "table3"}, "unknown gholami experiment 'table3'"),
        ({"paper": "optcnn", "name": "tabel3"}, "did you mean table3?"),
        ({"paper": "all", "name": "7"}, "all is every paper"),
        ({"paper": "gholami", "path": "x.csv"}, "name one, as in gridnn reproduce gholami 4 --csv x.csv"),
        (
            {"paper": "gholami", "name": "7", "machine": "frontier"},
            "--machine frontier has no effect without",
        ),
        ({"paper": "gholami", "name": "7", "rounds": 9}, "--rounds 9 has no effect without"),
    ],
)
def test_mistakes_are_refused_with_the_remedy(options, text, capsys):
    with pytest.raises(command.typer.Exit) as end:
        command.reproduce(**options)
    assert end.value.exit_code == 2
    assert text in capsys.readouterr().err


def test_only_what_measures_needs_mpi():
    assert command.runs_alone(["reproduce", "gholami", "7"])
    assert not command.runs_alone(["reproduce", "gholami", "7", "--measure"])
    assert not command.runs_alone(["reproduce", "measure"])
    assert not command.runs_alone(["train"])


def test_every_paper_has_the_experiments_that_the_command_names():
    for paper, names in command.PAPERS.items():
        assert tuple(command.experiments(paper)) == names


# -- predicted beside measured ------------------------------------------------------------------------------------


def test_the_cases_are_many_different_plans_for_any_number_of_ranks():
    assert grids(6) == ["1x6", "2x3", "3x2", "6x1"]
    assert [case.grid for case in grids_of_figure_7(4)] == ["1x4", "2x2", "4x1"]
    cases = many(4)
    assert len(cases) == 20 == len(set(map(str, cases)))
    assert len({case.config.model.model for case in cases}) == 5


def test_spearman():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 2, 4], [1, 3, 3, 9]) == pytest.approx(1.0)


def measured(grid: str, predicted: float, seconds: tuple[float, ...], equal: bool = True):
    case = Case(RunConfig.of(model="mlp", strategy="grid", grid=grid))
    return Measured(case, predicted, seconds, (100, 100 if equal else 99), equal)


def test_claims_of_what_was_measured():
    found = [measured("1x4", 3.0, (3.0, 3.1, 9.0)), measured("2x2", 1.0, (2.0, 2.2, 2.3)), measured("4x1", 2.0, (2.0,))]
    assert [one.median for one in found] == [3.1, 2.2, 2.0]
    assert found[2].error == 0.0
    words, order, regret = measured_claims(found)
    assert words.holds and words.paper == "300"
    assert not order.holds and float(order.ours) == pytest.approx(0.5)
    assert regret.ours == "10.0%"
    assert "predicted best grid 2x2, measured best grid 4x1" in regret.why
    wrong, *_ = measured_claims([*found[:2], measured("4x1", 2.0, (2.0,), equal=False)])
    assert not wrong.holds and "mlp grid 4x1" in wrong.why


MEASURE = """
import json
from gridnn.comm.job import run
from gridnn.cost.machines import load_machine
from gridnn.reproduce.cases import Case
from gridnn.reproduce.measure import measure_plans
from gridnn.train.config import RunConfig

def body(job):
    options = dict(model="mlp", dataset="synthetic", shape="8x8x1", samples=64, widths="32,32", batch=16, lr=1e-3)
    cases = [Case(RunConfig.of(**options, strategy="grid", grid=grid)) for grid in ("1x2", "2x1")]
    found = measure_plans(job, cases, load_machine("generic-cpu"), rounds=1)
    if not job.rank:
        print(json.dumps([[one.equal, *one.words, one.predicted, len(one.seconds), one.median] for one in found]))

run(body)
"""


def test_two_ranks_move_the_words_that_were_predicted(tmp_path):
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    done = run([*mpirun_command(), "-n", "2", sys.executable, str(script)], 60, clean_environment())
    assert done.returncode == 0, done.stderr
    for equal, predicted, moved, seconds, kept, median in json.loads(done.stdout.splitlines()[-1]):
        assert equal and predicted == moved > 0
        assert kept == 2 and seconds > 0 and median > 0


def test_the_default_machine_is_shipped():
    assert load_machine("generic-cpu").name == "generic-cpu"
