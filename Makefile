# Everything runs in .venv, which `install` makes. `make serve` and `make test` need nothing beforehand but Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

.PHONY: help install serve test test-packages lint format types bench docs clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

# The stamp lies in the environment: a change of the dependencies installs anew, anything else does not.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

install: $(VENV)/.installed  ## Install the package and its development tools into .venv

serve: install  ## Run the server: one process, everything in memory
	$(BIN)/verl-agent-env serve $(ARGS)

lint: install  ## Check formatting, style, types and the order of the rooms
	$(BIN)/black --quiet --check .
	$(BIN)/isort --quiet --check .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy src tests loadtests docs
	$(BIN)/lint-imports --no-logo

format: install  ## Format everything
	$(BIN)/black --quiet .
	$(BIN)/isort --quiet .

test: install lint  ## Run all checks and tests, as CI does
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --durations=10 $(ARGS)

bench: install  ## Print the figures: cost of a step against a bare echo, memory, level generation
	$(BIN)/python -m loadtests.bench $(ARGS)

docs: install  ## Write docs/environments.md from the environments' docstrings
	$(BIN)/python docs/make_environments.py

clean:  ## Remove what install and the tests made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* out
