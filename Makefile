# Needs git, make and Python 3.11+; no root. tools/venv.sh builds .venv from pinned hashes.
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Where it is set, as in many containers, each process compiles all of Dagster anew: two seconds.
unexport PYTHONDONTWRITEBYTECODE

# Three workers keep two cores busy, since many tests wait for servers; `make test ARGS="-m 'not e2e' -k rollup"` picks tests.
WORKERS ?= 3
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: .venv/.run ## shipped logs through the real sensor and assets, then a summary
	.venv/bin/mlreg demo

ui: .venv/.run ## the Dagster UI, with sensors and schedules on
	.venv/bin/mlreg ui

# loadgroup: tests that share a server bear one xdist_group and so stay in one worker.
test: .venv/.dev ## the whole test suite
	.venv/bin/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

kills: .venv/.dev ## workers killed at random points, 60 times
	MLREG_TEST_KILLS=60 MLREG_TEST_EXAMPLES=all .venv/bin/pytest -m kill $(ARGS)

# `make test` draws an eighth of the examples (tests/examples.py).
soak: .venv/.dev ## what takes longer: many processes, failing stores, thousands of rows, all examples of properties
	MLREG_TEST_EXAMPLES=all .venv/bin/pytest -n $(WORKERS) --dist loadgroup -m "soak or properties" $(ARGS)

lint: .venv/.dev ## style, format, types and import layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.dev ## mend style and format where a tool can
	.venv/bin/ruff check --fix --exit-zero
	.venv/bin/ruff format

bench: ## list the benchmarks; `make bench-NAME` runs one
	@for file in $(filter-out %/__init__.py,$(wildcard benchmarks/[a-z]*.py)); do \
		printf 'make bench-%-20s %s\n' "$$(basename $$file .py)" "$$(sed -n '1s/^"""\(.*\)/\1/p' $$file | sed 's/"""$$//')"; \
	done

bench-%: .venv/.bench
	.venv/bin/python -m benchmarks.$* $(ARGS)

wheel: .venv/.run ## dist/*.whl: the package alone, without assets, sensors and resources
	.venv/bin/python -m hatchling build -t wheel

# One version of each package on every Python, so that what was tested is what runs. Each
# file is bounded by the one before; PINS="--upgrade" or "--upgrade-package NAME" moves pins.
PINS ?=
COMPILE = tools/venv.sh uv pip compile --quiet --universal --fork-strategy fewest \
	--python-version 3.11 --only-binary :all: --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command 'make pins' $(PINS)
pins: ## recompile requirements*.txt
	$(COMPILE) pyproject.toml --group build -o requirements.txt
	$(COMPILE) pyproject.toml --group build --extra dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) pyproject.toml --group build --extra dev --extra bench -c requirements-dev.txt -o requirements-bench.txt
	$(COMPILE) --group pyproject.toml:uv -o requirements-uv.txt

clean: ## remove what make built; logs, tables and reports stay
	rm -rf .venv .tools dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/.run: requirements.txt pyproject.toml
	@tools/venv.sh run
.venv/.dev: requirements-dev.txt pyproject.toml
	@tools/venv.sh dev
.venv/.bench: requirements-bench.txt pyproject.toml
	@tools/venv.sh bench

# A .venv that lost something is mended whatever its time stamps say.
ifneq ($(shell tools/venv.sh intact),yes)
.venv/.run .venv/.dev .venv/.bench: damaged
endif

.PHONY: help demo ui test kills soak lint format bench wheel pins clean damaged
