# Set-up happens by itself, once, and again when pyproject.toml or constraints.txt change.
# Another interpreter: make test PYTHON=python3.12
# A part of the tests: make test TESTS="-k label"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install test lint demo readme clean

help:
	@echo "make test   set up if need be, then run every test that this machine can"
	@echo "make demo   set up if need be, then show the product on synthetic videos"
	@echo "make lint   formatting, lint and types"
	@echo "make readme write the README's figures anew from benchmarks/results"
	@echo "make clean  remove the virtual environment and the demo"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "engine needs Python 3.11 or 3.12, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	    "name another: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@echo "==> making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "no virtual environment could be made; on Debian: apt-get install python3-venv" >&2; \
	  exit 2; }
	@echo "==> installing engine and what it needs: about 7 GB, a few minutes the first time"
	@$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[dev]'
	@touch $@
	@echo "==> installed"

test: $(INSTALLED)
	@echo "==> running the tests"
	@$(BIN)/python -m pytest -q -n 2 $(TESTS)

lint: $(INSTALLED)
	@echo "==> ruff format, ruff check, mypy"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

demo: $(INSTALLED)
	@echo "==> running the demo; its files go to demo/"
	@rm -rf demo
	@$(BIN)/engine demo --out demo

readme: $(INSTALLED)
	@$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) demo
