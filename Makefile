PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .cache/demo

.PHONY: help install demo test check format lock bench clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make the virtual environment from the lock file

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: install  ## build the demo models, serve them, ask them questions
	$(BIN)/python -m examples.demo.run $(DEMO)

test: check  ## everything CI runs: linters, types, tests
	$(BIN)/python -m pytest

check: install  ## linters and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## the benchmarks; each prints a table and, last, one JSON line
	$(BIN)/python -m benchmarks.concurrency
	$(BIN)/python -m benchmarks.learn
	$(BIN)/python -m benchmarks.hot_change
	$(BIN)/python -m benchmarks.chaos

lock:  ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'torch==2.13.0' 'ray[serve]==2.60.0'
	$(VENV)-lock/bin/pip install --quiet --group dev '.[eval,data]'
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

clean:  ## remove the environment and the demo models
	rm -rf $(VENV) $(DEMO)
