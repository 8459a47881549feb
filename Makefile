# Every target does its own set-up and can be the first one run on a machine with Python 3.11 or later.
# A stamp in the environment remembers each installation until pyproject.toml or constraints.txt changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first Python on the path that is recent enough; `make train PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
VERSIONS := --constraint constraints.txt
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check $(VERSIONS)
# pip compiles what it copies, and an editable install copies nothing.
COMPILE := $(RUN) -m compileall -q pgcore backends plugins
PINS := pyproject.toml constraints.txt
JOBS ?= 2

.PHONY: help train test test-newest peers fuzz lint bench clean

help:
	@echo "make train   train PPO on CartPole-v1 with the NumPy backend, into a folder in runs/"
	@echo "make test    run the tests with coverage"
	@echo "make test-newest   run them with the newest releases, in .venv-newest (8 GB with CUDA on Linux)"
	@echo "make peers   compare gradients with TRL, rlax, stable-baselines3 and torchrl, and run loops with them, in .venv-peers"
	@echo "make fuzz    fuzz the readers of files for an hour, in .venv-fuzz"
	@echo "make lint    run ruff, import-linter and basedpyright"
	@echo "make bench   start-up, gradients and losses beside an expert's in each framework, the exact oracle, CartPole on five seeds"
	@echo "make clean   remove .venv and everything that was built"

train: $(VENV)/.base
	$(VENV)/bin/pgcore train CartPole-v1 --estimator ppo --backend numpy --seed 0 --stop-at 475

# A worker that is done takes tests from the other: one test runs `pgcore check` and takes minutes.
# What frameworks trace is Python, and measuring coverage makes that several times slower: the
# core's tests alone are measured.
test: export PGCORE_REQUIRE_BACKENDS = torch,tensorflow,jax
# A cache of its own: a process that was killed while compiling leaves half a library in the shared one.
test: export TORCHINDUCTOR_CACHE_DIR = $(CURDIR)/$(VENV)/torchinductor
test: $(VENV)/.test
	$(RUN) -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term tests/core
	$(RUN) -m pytest -n $(JOBS) --dist worksteal --ignore=tests/core --ignore=tests/peers tests plugins/pgcore_check/suite

# The stamp goes first, so that each run installs the releases of its day. `import tensorflow, triton` of
# TensorFlow 2.21 and Triton 3.8 or 3.9 is a crash, and PyTorch needs Triton on GPUs alone.
test-newest: NEWEST = VENV=.venv-newest VERSIONS='--upgrade --upgrade-strategy eager'
test-newest:
	rm -f .venv-newest/.test
	$(MAKE) .venv-newest/.test $(NEWEST)
	.venv-newest/bin/python -m pip uninstall --yes triton
	$(MAKE) test $(NEWEST)

# In an environment of its own: what these libraries bring, a plugin of pytest among it, stays out of the tests'.
peers: export PGCORE_REQUIRE_BACKENDS = trl,rlax,stable_baselines3,torchrl,tensordict,flax,jax
peers:
	$(MAKE) .venv-peers/.peers VENV=.venv-peers
	.venv-peers/bin/python -m pytest tests/peers

# Guided by branches, from valid files on; a fault is a file beside the corpus. Atheris is not for every machine.
FUZZ_SECONDS ?= 3600
fuzz:
	$(MAKE) .venv-fuzz/.fuzz VENV=.venv-fuzz
	.venv-fuzz/bin/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) --corpus .venv-fuzz/corpus

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/basedpyright

bench: $(VENV)/.bench
	$(RUN) benchmarks/startup.py
	$(RUN) benchmarks/ppo_gradient.py
	$(RUN) benchmarks/loss.py
	$(RUN) benchmarks/backends.py
	$(RUN) benchmarks/inner_loop.py
	$(RUN) benchmarks/fisher.py
	$(RUN) benchmarks/exact.py
	$(RUN) benchmarks/cartpole.py

clean:
	rm -rf .venv .venv-newest .venv-peers .venv-fuzz build dist site htmlcov .coverage .hypothesis .pytest_cache .ruff_cache .benchmarks
	find pgcore backends plugins tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@[ -n "$(PYTHON)" ] || { echo "error: pgcore needs Python 3.11 or later, none is on the path; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.created $(PINS)
	@echo "Installing pgcore into $(VENV) ..."
	$(INSTALL) --editable '.[plot]'
	@$(COMPILE)
	@touch $@

$(VENV)/.test: $(VENV)/.created $(PINS)
	@echo "Installing pgcore and what its tests need into $(VENV) ..."
	$(INSTALL) --editable '.[test]'
	@$(COMPILE)
	@touch $@

$(VENV)/.peers: $(VENV)/.created $(PINS)
	@echo "Installing pgcore and the libraries that it is compared with into $(VENV) ..."
	$(INSTALL) --editable '.[peers]'
	@$(COMPILE)
	@touch $@

$(VENV)/.fuzz: $(VENV)/.created $(PINS)
	@echo "Installing pgcore and atheris into $(VENV) ..."
	$(INSTALL) --editable '.[fuzz]'
	@$(COMPILE)
	@touch $@

$(VENV)/.lint: $(VENV)/.created $(PINS)
	@echo "Installing pgcore, ruff and basedpyright into $(VENV) ..."
	$(INSTALL) --editable '.[test,lint]'
	@$(COMPILE)
	@touch $@

$(VENV)/.bench: $(VENV)/.created $(PINS)
	@echo "Installing pgcore and all frameworks into $(VENV) ..."
	$(INSTALL) --editable '.[all]'
	@$(COMPILE)
	@touch $@
