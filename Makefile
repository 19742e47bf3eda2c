# The few things a person types often. `make` alone lists them.
# Needs only python3 (3.11 or 3.12), make and git; everything else goes into .venv.

PYTHON ?= python3
UV_VERSION := 0.13.8
# Processes that run tests side by side; each starts pages, browsers and models of its own, some 4 GB.
WORKERS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python
CODE := $(wildcard app.py hub_upload.py blastlens train publish benchmarks tests)

# Real images and weights are never part of the repository; where they lie beside it, they are used.
ifneq ($(wildcard ../shared/data),)
export BLASTLENS_DATA ?= $(abspath ../shared/data)
# On a build server that has the images, a test skipped for lack of them is a failure.
ifeq ($(CI),true)
export BLASTLENS_REQUIRE_DATA ?= 1
endif
endif
ifneq ($(wildcard ../shared/weights),)
export BLASTLENS_WEIGHTS ?= $(abspath ../shared/weights)
endif

# Nothing here calls home: the demo serves the bundled models, the tests build their own.
export HF_HUB_OFFLINE ?= 1
export GRADIO_ANALYTICS_ENABLED ?= False

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-fast lint types format env clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## serve the demo on http://127.0.0.1:7860
	$(RUN) app.py

test: lint types  ## lint, check types and run the tests, but for the long ones
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not long"

test-long: $(VENV)/.installed-dev  ## run the long tests: kills, load, every case through every interface
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m long

test-fast: $(VENV)/.installed-dev  ## run the tests that take no more than a few seconds each
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not long"

lint: $(VENV)/.installed-dev  ## ruff: format and rules
	$(RUN) -m ruff format --check $(CODE)
	$(RUN) -m ruff check $(CODE)

types: $(VENV)/.installed-dev  ## mypy on the public API
	$(RUN) -m mypy

format: $(VENV)/.installed-dev  ## let ruff rewrite what it can
	$(RUN) -m ruff check --fix $(CODE)
	$(RUN) -m ruff format $(CODE)

env: $(VENV)/.installed-dev  ## create .venv with everything, for an editor or a training run

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs about ten times quicker than pip; where it cannot be had, pip does the same work.
# A mark file per requirements file, so that nothing is reinstalled until that file changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { \
	  echo "Python 3.11 or 3.12 is needed and '$(PYTHON)' is not one: try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(RUN) -m pip install --quiet uv==$(UV_VERSION) || echo "uv is not available here: pip will do, more slowly"

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(call install,requirements.txt)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(call install,requirements-dev.txt)
	@touch $@

define install
{ test -x $(VENV)/bin/uv && $(VENV)/bin/uv pip install --python $(RUN) -r $(1); } || $(RUN) -m pip install -r $(1)
endef
