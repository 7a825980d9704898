# Every target installs first if needed, and again when pyproject.toml or constraints.txt change.
# Use another interpreter: make test PYTHON=python3.12
# Run some of the tests: make test TESTS="-k label"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install test check lint demo readme clean

help:
	@echo "make install  create $(VENV) and install everything into it"
	@echo "make demo     run every step on synthetic videos; the results go to demo/"
	@echo "make test     run every test that this machine can run"
	@echo "make check    lint, types and every test that takes less than a few seconds: for daily work"
	@echo "make lint     check formatting, lint and types"
	@echo "make readme   write the tables of README.md and docs/ from benchmarks/results"
	@echo "make clean    remove $(VENV) and demo/"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "engine needs Python 3.11 or 3.12, but $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	    "choose another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@echo "==> creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "can't create a virtual environment; on Debian: apt-get install python3-venv" >&2; \
	  exit 2; }
	@echo "==> installing engine and its dependencies: about 9 GB, a few minutes the first time"
	@$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "==> installed"

test: $(INSTALLED)
	@echo "==> running the tests"
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal $(TESTS)

check: lint
	@echo "==> running the tests that aren't slow"
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" $(TESTS)

lint: $(INSTALLED)
	@echo "==> ruff format, ruff check, mypy"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

demo: $(INSTALLED)
	@echo "==> running the demo; the results go to demo/"
	@rm -rf demo
	@$(BIN)/engine demo --out demo

readme: $(INSTALLED)
	@$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) demo
