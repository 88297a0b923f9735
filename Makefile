# make demo | test | check: each makes the virtual environment itself. Another Python: make PYTHON=python3.12 test
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help demo test lint check format clean

help:
	@echo "make demo    train an EBSC on digits, certify it on a local Ray, show the table (a few minutes)"
	@echo "make test    all tests, on real Ray (a few minutes)"
	@echo "make check   what a reviewer runs: format, lint, types, all tests"
	@echo "make format  rewrite the code in the house format"
	@echo "make clean   remove the virtual environment and caches; runs and models stay"

demo: $(VENV)/.ready
	$(BIN)/ebsc demo

test: $(VENV)/.ready
	$(BIN)/pytest

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
