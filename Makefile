# Gantry. On a Debian 12 host with make and Python, every target sets up what it needs by itself.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3
SEEDS ?= 50
SEED_FROM ?= 1

# Each of many processes would compile all its modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: venv demo up down up-distributed down-distributed matrix network soak compose test check unit bench sim host native docs clean help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml infra/pymesos/wheel.py
	$(PYTHON) -m venv $(VENV) || { infra/host/setup.sh python && $(PYTHON) -m venv $(VENV); }
	wheels=$$($(BIN)/python infra/pymesos/wheel.py) && \
	  $(BIN)/python -m pip install --quiet --require-hashes --find-links "$$wheels" -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

venv: $(STAMP) ## the commands, in .venv/bin

host: ## packages of a bare Debian host (root): Docker, Open vSwitch, HAProxy, a C compiler
	infra/host/setup.sh host

native: host ## the C programs of the executor
	$(MAKE) -C services/executor/native OUT=$(CURDIR)/build/native

demo: $(STAMP) native ## the whole thing for real on this machine, and nothing left behind
	$(BIN)/python -m infra.demo

up: $(STAMP) native ## start Gantry on this machine and leave it running
	$(BIN)/gantry up

down: $(STAMP) ## stop what `make up` started, and delete all of it
	$(BIN)/gantry down

up-distributed: $(STAMP) native ## the same with a process a service, two replicas each, on Kafka and MongoDB's wire
	infra/host/setup.sh test
	$(BIN)/gantry up --distributed

down-distributed: $(STAMP) ## stop what `make up-distributed` started, and delete all of it
	$(BIN)/gantry down --distributed

test: $(STAMP) ## everything: style, types, boundaries, and all tests on real servers
	infra/host/setup.sh test
	infra/host/setup.sh browser
	$(MAKE) native check
	JDK_JAVA_OPTIONS=-XX:TieredStopAtLevel=1 $(BIN)/python -m pytest -q -n $(WORKERS) --no-loadscope-reorder

matrix: $(STAMP) native ## every part stopped, killed and frozen in the middle of a release; an hour and a half
	infra/host/setup.sh test
	$(BIN)/python -m tests.matrix

network: $(STAMP) native ## who can connect to whom among 150 containers and on three hosts; 10,000 random steps; some 15 minutes
	infra/host/setup.sh test
	$(BIN)/python -m tests.network

soak: $(STAMP) native ## 200 jobs for ten minutes, a leader and an executor killed each minute; SOAK="--minutes 3 --jobs 40"
	infra/host/setup.sh test
	$(BIN)/python -m tests.soak $(SOAK)

compose: $(STAMP) ## build the images, bring the compose files up in namespaces of their own and run an app; some minutes
	infra/host/setup.sh images
	$(BIN)/python -m tests.compose

check: $(STAMP) ## style, types and boundaries only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP) ## the tests that need no server
	$(BIN)/python -m pytest -q tests/unit tests/simulation

sim: $(STAMP) ## the simulation over SEEDS seeds from SEED_FROM
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(SEED_FROM)

bench: $(STAMP) native ## measure; prints a table and writes build/bench.json
	infra/host/setup.sh test
	$(BIN)/python -m tests.bench

docs: $(STAMP) ## regenerate docs/openapi.json and docs/asyncapi.json
	$(BIN)/python -m services.gateway.docs

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
