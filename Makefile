# Everything runs in VENV, which the first target that needs it creates.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage bench keys lint format clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

install: $(STAMP) ## Create VENV (.venv) and install the project into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed, for example: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## Train on aerial photographs of trees (5 minutes at most), evaluate, draw
	$(BIN)/python -m detector.data.formats.trees
	$(BIN)/python -m detector.train +experiment=trees

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest

coverage: $(STAMP) ## Run the tests, report the lines and branches that they cover
	$(BIN)/python -m pytest --cov --cov-report=term

bench: $(STAMP) ## Measure speed and memory (NAMES="metric loader" for some), see docs/performance.md
	$(BIN)/python benchmarks/run.py $(NAMES)

keys: $(STAMP) ## Write docs/keys.md from the options and conf/
	$(BIN)/python -m detector.config.keys docs/keys.md

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check src tests benchmarks notebooks
	$(BIN)/ruff format --check src tests benchmarks notebooks
	$(BIN)/mypy

format: $(STAMP) ## Put the source into the project's style
	$(BIN)/ruff check --fix src tests benchmarks notebooks
	$(BIN)/ruff format src tests benchmarks notebooks

clean: ## Remove what the targets above made, but not VENV or outputs/
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
