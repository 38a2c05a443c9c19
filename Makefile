# make demo    a backup and a restore, seen from an unmodified SDK, in under two minutes
# make test    the whole suite             make lint    ruff and strict types
# make bench   against pgBackRest, restic, borg, ...      make soak    the suite's random parts, for longer
# make docs    the API reference into build/reference, docs/openapi.json, and checks that the documents are right
#
# Each target sets up what it needs and remembers it in .tools/stamps; a second run is quick.

SHELL := /bin/bash
.DEFAULT_GOAL := help
STAMPS := .tools/stamps
# Through a link (see scripts/setup_python.sh) to a path that other users can execute.
PYTHON = $(shell readlink -f .venv)/bin/python
MAJORS ?= 13 14 16 17 18
# more than cores: a third of the time a test waits for a server to start or a second to pass
WORKERS ?= 3
SOAK_ROUNDS ?= 5

.PHONY: help setup demo test lint bench soak docs lock clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,6s/^# //p' Makefile

setup: system-test $(STAMPS)/python $(STAMPS)/postgresql $(STAMPS)/node $(STAMPS)/promtool

demo: system-demo $(STAMPS)/python
	@$(PYTHON) scripts/demo.py $(if $(KEEP),--keep)

test: setup
	$(PYTHON) -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: system-demo $(STAMPS)/python
	$(PYTHON) -m ruff check src tests scripts bench contrib
	$(PYTHON) -m ruff format --check src tests scripts bench contrib
	$(PYTHON) -m mypy

bench: system-bench $(STAMPS)/python
	$(PYTHON) bench/$(if $(BENCH),compare.py $(BENCH),plan.py)

# Random moments, random trees, random faults: each round draws anew.
soak: setup
	for round in $$(seq $(SOAK_ROUNDS)); do \
	    ICECORE_SEED=$$RANDOM ICECORE_RANDOM_KILLS=100 ICECORE_EXAMPLES=1000 ICECORE_HISTORY=5000 \
	        $(PYTHON) -m pytest -q -n $(WORKERS) -p no:cacheprovider tests/service tests/live/test_crash.py \
	        tests/live/test_verify.py tests/live/test_images_histories.py \
	        --timeout=3600 --hypothesis-seed=$$RANDOM || exit 1; \
	done

docs: system-demo $(STAMPS)/python
	PYTHONPATH=scripts $(PYTHON) -m reference
	$(PYTHON) -m pytest -q tests/test_rules.py tests/unit/test_cli_docs.py tests/unit/test_openapi.py \
	    tests/unit/test_reference_site.py

lock:
	scripts/lock.sh

clean:
	rm -rf "$$(readlink -f .venv)" "$$(readlink -f .tools)" .venv .tools build tests/live/node/node_modules

# ---------------------------------------------------------------- what the targets need

# The system is not ours: looked at each time, which takes a tenth of a second.
.PHONY: system-demo system-test system-bench
system-demo system-test system-bench:
	@scripts/setup_system.sh $(subst system-,,$@)

$(STAMPS)/python: requirements-dev.lock pyproject.toml scripts/setup_python.sh $(wildcard setup.py) | system-demo
	@scripts/setup_python.sh
	@mkdir -p $(@D) && touch $@

$(STAMPS)/postgresql: scripts/fetch_postgres.py | system-test $(STAMPS)/python
	@$(PYTHON) scripts/fetch_postgres.py $(MAJORS)
	@touch $@

$(STAMPS)/promtool: scripts/setup_promtool.sh | system-test
	@scripts/setup_promtool.sh
	@mkdir -p $(@D) && touch $@

$(STAMPS)/node: tests/live/node/package-lock.json scripts/setup_node.sh | system-test
	@scripts/setup_node.sh
	@mkdir -p $(@D) && touch $@
