# The verbs of the house. `make demo` and `make test` are all a newcomer needs; each sets up what it misses.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test test-slow test-wheel test-vllm check format bench wheel docs clean
.DEFAULT_GOAL := help

help: ## show these verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make the virtual environment and install what tests and the demo need
	@bash scripts/system_packages.sh

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash scripts/setup.sh

demo: $(STAMP) ## run a real pipeline with a real local LLM, live on Ray
	@bash scripts/demo.sh

test: setup ## the tests, under 15 minutes on 2 cores
	$(BIN)/python -m pytest -q

test-slow: setup ## fault tests on real processes
	$(BIN)/python -m pytest -q -m slow

test-wheel: setup ## the fast subset against the built wheel, in a clean environment
	@bash scripts/test_wheel.sh

test-vllm: ## models on vLLM's CPU build, in an environment of its own that is kept
	@PYTHON=$(PYTHON) bash scripts/test_vllm.sh

check: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure speed as ratios in one run, beside plain Ray, LangGraph and DBOS
	@echo "bench: installing the engines to compare with"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
