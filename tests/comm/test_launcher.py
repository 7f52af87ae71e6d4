"""What the launcher says in the environment."""

import os

import pytest

from gridnn.comm.launcher import check_launcher, check_library, check_ranks, launch, short_version, vendor
from gridnn.comm.threads import omp_threads
from gridnn.errors import UserError

OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@host Distribution"
MPICH = "MPICH Version:      5.0.2\nMPICH Release date: ..."
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("env", "rank", "size"),
    [
        ({}, None, None),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "3"}, 3, 4),
        ({"PMI_RANK": "1", "PMI_SIZE": "6", "MPI_LOCALNRANKS": "6"}, 1, 6),
        ({"PMI_RANK": "1", "PMI_SIZE": "6"}, 1, 6),
        ({"PMIX_RANK": "2"}, 2, None),
        (SRUN, 2, 4),
        ({**SRUN, "PMIX_RANK": "2"}, 2, 4),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 0, 1),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, None, None),  # a shell of salloc
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 1, 2),
        ({"RANK": "1", "WORLD_SIZE": "2", "PMI_RANK": "0", "PMI_SIZE": "1", "LOCAL_RANK": "0"}, 0, 1),
        ({**SRUN, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, 0, 1),
        ({**SRUN, "MPI_LOCALNRANKS": "8", "PMI_RANK": "9", "PMI_SIZE": "16"}, 9, 16),
    ],
)
def test_rank_and_size(env, rank, size):
    said = launch(env)
    assert (said.rank, said.size) == (rank, size)


@pytest.mark.parametrize(
    ("env", "local_rank"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "3", "SLURM_LOCALID": "0"}, 3),
        ({"MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "2"}, 2),
        ({**SRUN, "SLURM_LOCALID": "1"}, 1),
        (SRUN, None),
        ({"PMIX_RANK": "5"}, None),
    ],
)
def test_local_rank(env, local_rank):
    assert launch(env).local_rank == local_rank


@pytest.mark.parametrize(
    ("env", "ranks"),
    [
        ({}, 1),
        (SRUN, 4),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, 1),
        ({**SRUN, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, 1),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
            6,
        ),  # a job of several components
    ],
)
def test_fitting_jobs_pass(env, ranks):
    check_ranks(env, ranks, OPEN_MPI)


def test_singletons_of_slurm_are_refused_naming_the_option():
    with pytest.raises(UserError, match=r"Slurm started 4 processes.*srun --mpi=pmix .*srun -n 1"):
        check_ranks(SRUN, 1, OPEN_MPI)
    with pytest.raises(UserError, match=r"--mpi=pmi2 .*mpirun that belongs to MPICH"):
        check_ranks({**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4"}, 1, MPICH)


def test_singletons_of_a_launcher_of_pytorch_are_refused():
    with pytest.raises(UserError, match=r"torchrun.* started 2 processes.*mpirun that belongs to Open MPI"):
        check_ranks({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 1, OPEN_MPI)


def test_singletons_of_the_wrong_mpirun_are_refused_naming_the_right_one():
    env = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
    with pytest.raises(UserError, match=r"Open MPI's mpirun started 4 processes.*mpirun that belongs to MPICH"):
        check_ranks(env, 1, MPICH)
    env = {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"}
    with pytest.raises(UserError, match=r"MPICH or Intel MPI started 4.*mpirun that belongs to Open MPI"):
        check_ranks(env, 1, OPEN_MPI)


@pytest.mark.parametrize("size", [1, 4])
def test_a_library_of_another_family_is_refused_before_it_starts(size):
    ompi = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": str(size)}
    hydra = {"PMI_RANK": "0", "PMI_SIZE": str(size), "MPI_LOCALNRANKS": str(size)}
    check_library(ompi, OPEN_MPI)
    check_library(hydra, MPICH)
    check_library({}, MPICH)
    for env, library, fit in ((ompi, MPICH, "MPICH"), (hydra, OPEN_MPI, "Open MPI")):
        if size == 1:
            check_library(env, library)
        else:
            with pytest.raises(UserError, match=f"which it cannot start: use the mpirun that belongs to {fit}"):
                check_library(env, library)


def test_vendor():
    assert short_version(OPEN_MPI) == "Open MPI v5.0.11"
    assert short_version(MPICH) == "MPICH Version: 5.0.2"
    assert vendor(OPEN_MPI) == "Open MPI"
    assert vendor(MPICH) == "MPICH"
    assert vendor("Intel(R) MPI Library 2021.18") == "Intel MPI"
    assert vendor("MVAPICH2 3.0, built today") == "MVAPICH2 3.0"


@pytest.mark.parametrize(
    ("text", "threads"), [("1", 1), ("4,2", 4), ("", None), ("0", None), ("many", None), (" 3 ", 3)]
)
def test_threads_of_the_environment(text, threads):
    assert omp_threads({"OMP_NUM_THREADS": text}) == threads
    assert omp_threads({}) is None


def test_an_orphan_of_mpirun_is_refused(monkeypatch):
    mpirun = {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "systemd\n")
    for parent in (1, 4711):
        with pytest.raises(UserError, match="mpirun has ended, which started this process"):
            check_launcher(mpirun, parent)
    check_launcher({}, 1)  # started by hand
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "prterun\n")
    check_launcher(mpirun, 1)  # as the first process of a container
    monkeypatch.undo()
    check_launcher(mpirun, os.getpid())
