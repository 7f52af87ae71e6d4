"""Which transport a group takes and why: the table, the test in child processes, the rules, and the refusals."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
from launch import HELPERS, gridnn

from gridnn.comm.transports import choice
from gridnn.comm.transports.capabilities import capabilities_of
from gridnn.comm.transports.choice import Transports
from gridnn.comm.transports.probe import Verdict, child_environment, judge, probe
from gridnn.comm.transports.probe_calls import PASSED, SAYS, STARTED, TRYING
from gridnn.errors import UserError
from gridnn.layout.gridshape import GridShape
from gridnn.train.config import RUN_OPTIONS, RunConfig

CHILD = str(HELPERS / "probe_child.py")
OPEN_MPI, CRAY = "Open MPI v5.0.11", "MPI VERSION : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)"
PASS, FAIL = Verdict(True, "moved device memory"), Verdict(False, "was ended by SIGSEGV in Allreduce")
UNABLE = Verdict(None, "not tested: no mpirun")


# -- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "row", "said"),
    [
        ("Open MPI v5.0.11, package: x", "Open MPI 5", True),
        ("Open MPI v4.1.6", "Open MPI 4.1", True),
        ("MPICH Version:      5.0.2", "MPICH 4 and 5", True),
        (CRAY, "Cray MPICH", False),
        ("MVAPICH2 Version      : 2.3.7", "MVAPICH", False),
        ("Intel(R) MPI Library 2021.18 for Linux* OS", "Intel MPI", True),
        ("HPE MPT 2.30", "HPE MPT 2.30", False),
    ],
)
def test_a_library_has_its_row(library, row, said):
    found = capabilities_of(library)
    assert found.library == row
    assert found.vector_reduce_scatter == said


# -- the test in child processes ---------------------------------------------------------------------------------


def lines(*said: str) -> str:
    return "".join(f"{SAYS}{line}\n" for line in said)


BEGUN = (f"{STARTED}2", f"{STARTED}2", f"{TRYING}Allreduce of 257 float32")


@pytest.mark.parametrize(
    ("status", "said", "passed", "text"),
    [
        (0, (*BEGUN, PASSED, PASSED), True, "moved device memory"),
        (0, (*BEGUN, PASSED), False, "ended with status 0 in Allreduce"),  # one process is not heard of
        (1, (*BEGUN, PASSED, PASSED), False, "ended with status 1"),
        (139, BEGUN, False, "was ended by SIGSEGV in Allreduce of 257 float32"),
        (-9, BEGUN, False, "was ended by SIGKILL in Allreduce"),
        (None, BEGUN, False, "did not end within 60 s in Allreduce"),
        (1, (*BEGUN, "Allreduce of 257 float32 gave wrong numbers"), False, "failed: Allreduce of 257 float32 gave"),
        (1, (*BEGUN, "MPI refuses device memory: MPI_ERR_BUFFER"), False, "failed: MPI refuses device memory"),
        (1, (f"{STARTED}2",), None, "not tested: .*cudaErrorDevicesUnavailable"),
        (None, (), None, "not tested: .*cudaErrorDevicesUnavailable"),
        (0, (f"{STARTED}1", f"{STARTED}1", PASSED, PASSED), None, "that do not see each other"),
    ],
)
def test_the_end_of_a_child_is_judged(status, said, passed, text):
    errors = "Traceback\ncudaErrorDevicesUnavailable: all CUDA-capable devices are busy or unavailable\n"
    verdict = judge(status, lines(*said), errors, 2, OPEN_MPI)
    assert verdict.passed is passed
    assert re.search(text, verdict.text)


@pytest.mark.parametrize(
    ("how", "limit", "passed", "text"),
    [
        ("right", 60, True, "in 2 processes moved device memory"),
        ("wrong", 60, False, "in 2 processes failed: Isend and Irecv of 257 float32 gave wrong numbers"),
        ("crash", 60, False, "in 2 processes was ended by SIGSEGV in Allreduce of 257 float32"),
        ("hang", 4, False, "in 2 processes did not end within 4 s in Allgatherv of 257 float32"),
        ("no gpu", 60, None, "in 1 process did not come to its first call (cudaErrorNoDevice: no CUDA-capable device"),
    ],
)
def test_a_child(how, limit, passed, text):
    from mpi4py import MPI

    verdict = probe(MPI.Get_library_version(), (sys.executable, CHILD, how), limit)
    assert verdict.passed is passed
    assert text in verdict.text and "\n" not in verdict.text


def test_a_child_is_not_told_of_the_launcher_of_this_job():
    given = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_MCA_num_procs": "4",
        "PMIX_RANK": "0",
        "PMI_FD": "7",
        "PRTE_LAUNCHED": "1",
        "SLURM_JOB_ID": "9",
        "MPI_LOCALNRANKS": "4",
    }
    own = {
        "PATH": "/bin",
        "OMPI_MCA_pml": "ucx",
        "OPAL_PREFIX": "/mpi",
        "PMIX_PREFIX": "/mpi",
        "UCX_TLS": "all",
        "I_MPI_OFFLOAD": "1",
        "CUDA_VISIBLE_DEVICES": "3",
    }
    kept = child_environment({**given, **own})
    assert own.items() <= kept.items()
    assert not given.keys() & kept.keys()


# -- the rules ---------------------------------------------------------------------------------------------------


class FakeComm:
    """The ranks of a job one after the other, as one of them sees them: ``allgather`` gives what all would say."""

    def __init__(self, ranks):
        self.ranks = ranks

    def allgather(self, value):
        if isinstance(value, choice.Place):
            return self.ranks
        return [value if place.rank == place.node else None for place in self.ranks]


def chosen(asked, devices, grid="1x1", verdict=FAIL, nccl="", library=OPEN_MPI, order="column", monkeypatch=None):
    """The transports of a job whose ranks are on one node and have ``devices``; the tests made."""
    places = [choice.Place(rank, 0, "n1", device, nccl) for rank, device in enumerate(devices)]  # what all would say
    job = SimpleNamespace(comm=FakeComm(places), rank=0, size=len(places), node=0, local_rank=0, library=library)
    made = []

    def test(text):
        made.append(text)
        return verdict

    monkeypatch.setattr(choice, "load_nccl", lambda: None)
    shape = GridShape.parse(grid, len(places), order)
    return Transports.choose(asked, job, SimpleNamespace(identity=devices[0]), shape, test), made


@pytest.fixture
def choose(monkeypatch):
    monkeypatch.setattr(choice, "says", lambda env, library: None)
    return lambda *args, **options: chosen(*args, **options, monkeypatch=monkeypatch)


def test_auto_takes_nccl_where_every_rank_has_a_device_and_tests_nothing(choose):
    transports, made = choose("auto", "abcd", "2x2")
    assert str(transports) == "nccl (each rank has a GPU of its own)"
    assert transports.described().keys() == {"row", "column", "world"}
    assert made == []


def test_auto_takes_cuda_aware_mpi_for_all_groups_where_nccl_cannot_serve_all(choose):
    transports, made = choose("auto", "aabb", "2x2", PASS)
    assert [transports.chosen(group)[0] for group in ([0, 1], [0, 2], [0, 1, 2, 3])] == ["cuda-aware"] * 3
    assert made == [OPEN_MPI]


def test_auto_takes_nccl_for_some_groups_and_host_memory_for_others(choose):
    """Ranks 0 and 1, a column, share a GPU; the ranks of a row do not."""
    transports, _ = choose("auto", "aabb", "2x2")
    cause = "ranks 0 and 1 share GPU a of n1, which NCCL refuses; was ended by SIGSEGV in Allreduce"
    described = transports.described()
    assert described["row"] == "nccl (each of its ranks has a GPU of its own)"
    assert described["column"].startswith(f"host ({cause})")
    assert described["world"] == f"host ({cause})"


def test_groups_are_grid_indices_whatever_the_order_of_the_ranks(choose):
    transports, _ = choose("auto", "aabb", "2x2", order="row")  # now the ranks 0 and 1 are a row
    assert transports.described()["column"] == "nccl (each of its ranks has a GPU of its own)"
    assert transports.described()["row"].startswith("host (ranks 0 and 1 share GPU a")


def test_auto_without_nccl(choose):
    transports, _ = choose("auto", "ab", "2x1", nccl="CuPy finds no NCCL library: pip install it")
    assert str(transports) == (
        "host (rank 0 on n1: CuPy finds no NCCL library: pip install it; was ended by SIGSEGV in Allreduce)"
    )
    assert str(choose("auto", "ab", "2x1", PASS, nccl="none")[0]) == "cuda-aware (moved device memory)"


def test_auto_believes_a_library_that_says_no(choose, monkeypatch):
    monkeypatch.setattr(choice, "says", lambda env, library: False)
    transports, made = choose("auto", "aa", "1x2", PASS)
    assert "Open MPI v5.0.11 says it has no CUDA support" in str(transports)
    assert made == []


def test_nothing_is_tested_where_nothing_moves(choose):
    for asked in ("auto", "cuda-aware", "host", "nccl"):
        transports, made = choose(asked, "a")
        assert (str(transports), made) == ("none (one rank)", [])


def test_what_is_asked_for_is_taken(choose):
    assert str(choose("host", "ab", "1x2")[0]) == "host (asked for)"
    assert str(choose("nccl", "ab", "1x2")[0]) == "nccl (asked for)"
    assert str(choose("cuda-aware", "ab", "1x2", PASS)[0]) == "cuda-aware (asked for; moved device memory)"


def test_cuda_aware_mpi_that_cannot_be_tested_is_believed_where_it_is_asked_for(choose, monkeypatch):
    monkeypatch.setattr(choice, "says", lambda env, library: True)
    assert "says it has CUDA support; not tested" in str(choose("cuda-aware", "ab", "1x2", UNABLE)[0])
    assert str(choose("auto", "aa", "1x2", UNABLE)[0]).startswith("host (ranks 0 and 1 share")


@pytest.mark.parametrize(
    ("asked", "devices", "options", "text"),
    [
        ("nccl", "aa", {}, "ranks 0 and 1 share GPU a of n1, which NCCL refuses: start one rank per GPU"),
        (
            "nccl",
            "ab",
            {"nccl": "CuPy finds no NCCL library"},
            "CuPy finds no NCCL library, or use --transport cuda-aware",
        ),
        ("cuda-aware", "ab", {"verdict": FAIL}, "was ended by SIGSEGV in Allreduce: load or build an MPI library"),
        ("cuda-aware", "ab", {"verdict": UNABLE}, "not tested: no mpirun: load or build an MPI library"),
    ],
)
def test_what_cannot_work_is_refused(choose, asked, devices, options, text):
    with pytest.raises(UserError, match=f"--transport {asked}: ") as caught:
        choose(asked, devices, "1x2", **options)
    assert text in str(caught.value)


# -- the option --------------------------------------------------------------------------------------------------


def test_the_option_names_the_transports():
    assert set(RUN_OPTIONS["transport"].choices) == {choice.AUTO, choice.CUDA_AWARE, choice.NCCL, choice.HOST}


def test_the_option_belongs_to_the_gpu():
    with pytest.raises(UserError, match="--transport nccl has no effect with --backend numpy: leave it out, or use"):
        RunConfig.of(transport="nccl").validate()
    RunConfig.of(transport="nccl", backend="cupy").validate()
    assert "transport" not in RunConfig.of().as_dict()


# -- on the stand-in for CuPy ------------------------------------------------------------------------------------


STANDIN = {"PYTHONPATH": str(HELPERS / "standin")}
SMALL = ("--model", "mlp", "--widths", "8", "--dataset", "synthetic", "--shape", "4x4x1", "--samples", "16")


def test_cuda_aware_mpi_on_device_memory_that_is_host_memory():
    run = ("train", *SMALL, "--batch", "16", "--grid", "2x1", "--epochs", "1", "--backend", "cupy")
    done = gridnn(2, *run, "--transport", "cuda-aware", env=STANDIN)
    assert done.returncode == 0, done.stderr
    assert "transport cuda-aware (asked for; a test of Open MPI" in done.stdout


def test_check_says_what_auto_would_take():
    done = gridnn(2, "check", env=STANDIN)
    assert done.returncode == 0, done.stderr
    assert re.search("--transport auto .* host \\(ranks 0 and 1 share GPU", done.stdout)


# -- agreement ---------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.parametrize("asked", ["auto", "cuda-aware"])
def test_all_ranks_agree_although_few_test(comm, asked, monkeypatch):
    """Nodes of two ranks that share a GPU; on the last node the test fails."""
    monkeypatch.setattr(choice, "load_nccl", lambda: None)
    monkeypatch.setattr(choice, "says", lambda env, library: None)
    node, last = comm.rank // 2 * 2, (comm.size - 1) // 2 * 2
    job = SimpleNamespace(
        comm=comm, rank=comm.rank, size=comm.size, node=node, local_rank=comm.rank - node, library=OPEN_MPI
    )
    tested = []

    def test(library):
        tested.append(library)
        return FAIL if node == last else PASS

    device = SimpleNamespace(identity="the same")
    try:
        found = str(Transports.choose(asked, job, device, GridShape(1, comm.size), test))
    except UserError as error:
        found = str(error)
    everyone = comm.allgather(found)
    assert set(everyone) == {found}
    assert len(tested) == (job.local_rank == 0 and comm.size > 1)
    if comm.size == 1:
        assert found == "none (one rank)"
    elif asked == "cuda-aware":
        assert found.startswith("--transport cuda-aware: was ended by SIGSEGV")
    else:
        assert found.startswith("host (ranks 0 and 1 share GPU the same of ")


@pytest.mark.mpi
def test_the_calls_of_the_test_are_right_on_every_number_of_ranks(comm):
    from probe_child import HOST_MEMORY

    from gridnn.comm.transports.probe_calls import Calls

    for library in (OPEN_MPI, CRAY):
        for size in (61, 257):
            assert Calls(comm, HOST_MEMORY, capabilities_of(library), size).check() is None
