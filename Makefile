# Two commands on a fresh machine: `make demo`, `make test`. Both make a virtual environment and install first.
# Another Python: make test PYTHON=python3.12.  Another environment: make test VENV=build/venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard archsim/kernels/*.pyx archsim/kernels/*.pxd archsim/kernels/*.pxi)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-export build lint types contracts bench studies validate wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.built  ## simulate Llama-3.1-8B and DeepSeek-V3 on an H800 and a custom NPU; writes demo-output/
	@PATH="$(abspath $(BIN)):$$PATH" bash examples/demo.sh

test: $(VENV)/.built  ## all tests, doctests and notebooks
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-export: $(VENV)/.built  ## export traces from Hugging Face model code again and compare (installs torch)
	@$(PIP) -e .[export]
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 2 --dist worksteal -o addopts="-ra --strict-markers --doctest-modules" tests/export archsim/trace/exporter

build: $(VENV)/.installed  ## compile the kernels that changed, in place (ARCHSIM_DEBUG=1: with bounds checks)
	@$(BIN)/python setup.py -q build_ext --inplace && touch $(VENV)/.built

lint: $(VENV)/.built  ## ruff
	@$(BIN)/ruff check .

types: $(VENV)/.built  ## mypy --strict on archsim/
	@$(BIN)/mypy

contracts: $(VENV)/.built  ## which package may import which (import-linter)
	@$(BIN)/lint-imports

bench: $(VENV)/.built  ## operators/s, SimPy events/s, peak memory
	@$(BIN)/python -m compileall -q archsim  # as an install does: else every import compiles where Python may write no bytecode
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

studies: $(VENV)/.built  ## simulate the points of notebooks/studies again (a quarter of an hour)
	@for name in $(notdir $(wildcard notebooks/studies/*)); do \
		rm -rf build/studies/$$name; \
		$(BIN)/archsim sweep run $$name --out build/studies/$$name && $(BIN)/archsim sweep compact build/studies/$$name && \
		sed 's|"folder": ".*"|"folder": "."|' build/studies/$$name/sweep.json > notebooks/studies/$$name/sweep.json && \
		cp build/studies/$$name/table.h5 notebooks/studies/$$name/ || exit 1; \
	done

validate: $(VENV)/.built  ## hold the simulator against the reference data that ships with it
	@$(BIN)/archsim validate

wheel: $(VENV)/.built  ## dist/*.tar.gz, and dist/*.whl built from that archive unpacked
	@rm -rf dist && $(BIN)/python -m build

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) build dist demo-output *.egg-info archsim/kernels/*.so .*_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "archsim needs Python 3.10 or newer: try make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed (Debian, Ubuntu: apt install python3-venv)"; exit 1; }

$(VENV)/.installed: setup.py pyproject.toml archsim/_version.py | $(BIN)/python
	$(PIP) -e .[test]
	@touch $@

$(VENV)/.built: $(VENV)/.installed archsim/kernels/_guard.py $(KERNELS)
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
