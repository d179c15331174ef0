# Everything below needs Python 3.11 or 3.12 and make; nothing else is installed outside .venv.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that really runs and is 3.11 or 3.12; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
# One thread per native library: the engine brings its own threads.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test lint docs bench up clean
help:
	@echo "make demo   set up, run the main job on the embedded data, say what to open"
	@echo "make test   set up, run the tests"
	@echo "make lint   formatting, lint and types"
	@echo "make docs   the documentation site, into build/site; a broken link fails"
	@echo "make bench  side-by-side measurements"
	@echo "make up     Dagster UI, daemon and MLflow UI"
	@echo "make clean  remove .venv and .qdag"

setup: $(VENV)/.ready

# $(call step,what,command): says what, then how long it took.
define step
@printf '  %-58s' "$(1)"; began=$$(date +%s); { $(2) ; } && echo "$$(($$(date +%s) - began)) s"
endef

$(VENV)/.ready: requirements.lock requirements-bootstrap.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "qdag needs Python 3.11 or 3.12; none was found. Install one, or: make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "setting up $(VENV) (once; about 2.4 GB)"
	$(call step,environment of $(PYTHON),$(PYTHON) -m venv $(VENV))
	$(call step,installer,$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt)
	$(call step,$(shell grep -c '^[a-z]' requirements.lock) packages of requirements.lock (a minute or more),$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock)
	$(call step,qdag itself,$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .)
	@touch $@

demo: setup
	$(BIN)/qdag demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open build/site/index.html, or: $(BIN)/mkdocs serve"

bench: setup
	$(BIN)/python -m benchmarks --write

up: setup
	$(BIN)/qdag up

clean:
	rm -rf $(VENV) .qdag
