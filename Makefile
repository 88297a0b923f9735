# make demo | test | check: each makes the virtual environment itself. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin

SLURM  ?= here

.PHONY: help demo docs test test-browser test-slurm lint check format clean

help:
	@echo "make demo        train an EBSC on digits, certify it on a local Ray, show the table (a few minutes)"
	@echo "make test        all tests but those of test-slurm and test-browser, on real Ray (a few minutes)"
	@echo "make test-browser  the report in a real Chromium (a minute; Debian: apt-get install chromium chromium-driver)"
	@echo "make test-slurm  jobs on a real SLURM of three nodes, made on this machine for the tests (8 minutes, needs root);"
	@echo "                 with SLURM=own on the cluster that this machine submits to, from a folder that its nodes see"
	@echo "make docs        the pages of docs/ as a site in build/docs, offline; a warning is an error"
	@echo "make check       what a reviewer runs: format, lint, types, all tests but those of test-slurm and test-browser"
	@echo "make format      rewrite the code in the house format"
	@echo "make clean       remove the virtual environment and caches; runs and models stay"

demo: $(VENV)/.ready
	$(BIN)/ebsc demo

test: $(VENV)/.ready
	$(BIN)/pytest

test-browser: $(VENV)/.ready
	$(BIN)/pytest -m browser tests/browser

test-slurm: SHELL := /bin/bash
test-slurm: $(VENV)/.ready
ifeq ($(SLURM),own)
	mkdir -p build
	env -u EBSC_SLURM $(BIN)/pytest -m slurm -rs --basetemp=build/test-slurm tests/slurm
else
	@slurm/devcluster/up && trap slurm/devcluster/down EXIT && \
	source "$${EBSC_SLURM:-/tmp/ebsc-slurm}/env.sh" && $(BIN)/pytest -m slurm tests/slurm
endif

docs: $(VENV)/.ready
	$(BIN)/sphinx-build -W --keep-going -q -d build/doctrees docs build/docs
	@echo "open build/docs/index.html"

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
