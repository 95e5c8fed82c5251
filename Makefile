# The two commands of a newcomer are `make demo` and `make test`; `make` alone lists the rest.
# PYTHON=python3.12 chooses another interpreter for the virtual environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
PIP_OPTIONS := --disable-pip-version-check --no-input -qq

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup venv test demo bench bench-peers fuzz oracles format lint types layers pytest clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { sub(/ .*/, "", $$1); printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup venv: $(STAMP)  ## make .venv with the pinned dependencies

test: $(STAMP)  ## run every check: format, lint, types, layers, tests
	@$(BIN)/ruff format --check --quiet . || { echo "make: some files want 'make format'" >&2; exit 1; }
	@$(MAKE) --no-print-directory lint types layers pytest

demo: $(STAMP)  ## see it work: PostgreSQL, gateway, signed webhooks, a moody vendor
	@$(BIN)/gateway demo

bench: $(STAMP)  ## measure the gateway against bare aiohttp on this machine
	@$(BIN)/python -m benchmarks

bench-peers: $(STAMP)  ## measure it beside other queues and webhook stacks (installs them aside)
	@$(BIN)/python -m benchmarks.peers

fuzz: $(STAMP)  ## send the public listener what it should not be sent (MINUTES=5)
	@cd tests/service && PYTHONPATH=$(CURDIR) $(CURDIR)/$(BIN)/python fuzzing.py --minutes $(or $(MINUTES),5)

oracles: $(STAMP)  ## ask the senders' npm packages again about what the gateway signs
	@cd tests && $(CURDIR)/$(BIN)/python -m oracles.ask

format: $(STAMP)  ## format the code and sort the imports
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .

lint: $(STAMP)  ## look for mistakes
	@$(BIN)/ruff check --quiet .

types: $(STAMP)  ## check the types
	@$(BIN)/mypy --no-error-summary

layers: $(STAMP)  ## check who imports whom
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

pytest: $(STAMP)  ## run the tests only (WORKERS=0: in one process)
	@$(BIN)/pytest -q --no-header --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

clean:  ## remove all that was built; var/ (data!) stays
	rm -rf $(VENV) build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: $(PYTHON) is missing or older than Python 3.11; name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) lacks venv or ensurepip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; a minute or so) …" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e '.[embedded,dev]'
	@touch $@
