# make demo and make test do the set-up themselves.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

BIN := .venv/bin
# One thread a process: the tensors here are small, and the work is spread over processes where it pays.
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	@.ci/setup

setup: .venv/installed  ## make .venv and install physzoo with all extras; a second time it does nothing

demo: .venv/installed  ## fit lynx and hare, check it against a reference, write reports/lynx_hare/report.html
	$(BIN)/physzoo run lynx_hare --out reports/lynx_hare --overwrite

lint: .venv/installed  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Groups of tests that share what they make: tests/conftest.py.
test: lint  ## lint, then every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

bench: .venv/installed  ## every benchmark, one after the other (hours); single ones: python benchmarks/NAME.py
	@for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and caches; reports stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
