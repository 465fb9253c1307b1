# Everything runs inside .venv; paths are relative, so a project folder with spaces in its name works.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: demo results setup test test-full lint docs lock generated clean help

BIN := .venv/bin
STAMP := .venv/.steelyard-installed
LOCKS := cluster/deploy/images
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --extra dev --extra docs --python-version 3.11 --no-header --no-annotate

FRESH_OPTION := $(if $(filter-out 0,$(FRESH)),--fresh)
SEED_OPTION := $(if $(SEED),--seed $(SEED))
BREAK_OPTION := $(if $(BREAK),--break $(BREAK))
FAST_OPTION := $(if $(filter-out 0,$(FAST)),-m "not slow and not gpu and not system" --ignore tests/system)
# A file's tests stay on one core, for they share engines; seconds of every test go to build/tests.xml.
TWO_CORES := -n 2 --dist loadfile --junitxml=build/tests.xml
MINUTES_OPTION := $(if $(MINUTES),--minutes $(MINUTES))

demo: $(STAMP)  ## Run the whole method on the sandbox (FRESH=1 from the start, SEED=n another seed, BREAK=generator|constraint)
	@$(BIN)/python -m cluster.commands.main demo $(FRESH_OPTION) $(SEED_OPTION) $(BREAK_OPTION)

results: $(STAMP)  ## Run what the table of docs/results.md lacks, then write it (MINUTES=n: no new run after that)
	@$(BIN)/python -m cluster.commands.main results run --table $(MINUTES_OPTION)
	@$(BIN)/python -m cluster.commands.main results write

setup: $(STAMP)  ## Make .venv from the lock

$(STAMP): $(LOCKS)/cpu.lock pyproject.toml cluster/deploy/setup.sh
	@sh cluster/deploy/setup.sh $(LOCKS)/cpu.lock
	@printf %s "$(CURDIR)" > $(STAMP)

# A project folder that was moved needs its scripts again: they hold its path.
ifneq ("$(shell cat $(STAMP) 2>/dev/null)","$(CURDIR)")
$(STAMP): moved
moved: ;
.PHONY: moved
endif

test: $(STAMP)  ## Run the tests on two cores (FAST=1: only those that start no Ray)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO_CORES) -m "not slow and not gpu" $(FAST_OPTION)

test-full: $(STAMP)  ## Run the tests, the slow ones too
	@$(BIN)/python -m pytest

lint: $(STAMP)  ## Check style, imports and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/python tests/structure/measure.py --quiet
	@$(BIN)/mypy

docs: $(STAMP)  ## Write the documentation as a searchable site to build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site"

lock: $(STAMP)  ## Resolve cpu.lock and gpu.lock again
	@$(COMPILE) --upgrade --extra cpu --override $(LOCKS)/cpu.overrides.txt -o $(LOCKS)/cpu.lock
	@$(COMPILE) --upgrade --extra gpu --override $(LOCKS)/gpu.overrides.txt --python-platform x86_64-unknown-linux-gnu -o $(LOCKS)/gpu.lock

generated: $(STAMP)  ## Write docs/metrics.md and cluster/deploy/monitoring again from the code
	@$(BIN)/python -m cluster.commands.main metrics --markdown > docs/metrics.md
	@$(BIN)/python -m cluster.observability.monitoring.files

clean:  ## Stop this folder's Ray head; remove caches and the head's files (runs/ and .venv stay)
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m cluster.commands.main head stop --clean; fi
	@rm -rf .steelyard .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
