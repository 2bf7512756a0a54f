# make demo       a whole night on the built-in data set
# make test       the tests but the slow ones
# make test-slow  whole nights, a cluster, and other tests that take their time
# make test-fast  the tests that need no Java and little compiling
# make check      format, lint, types, layers
# make docs       the documents, in docs/_build/html
# make dist       what a cluster lacks to run a night, in dist; see docs/cluster.md
# make bench-*    measurements against peers; see docs/benchmarks.md
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
DEMO_DATE := 2026-01-31

.PHONY: demo test test-slow test-fast check format docs dist clean

demo: $(VENV)/.run
	$(BIN)/recsys nightly --config conf/demo.yaml --run-date $(DEMO_DATE) --show 3

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m "not spark and not slow" $(PYTEST_ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: $(VENV)/.run
	$(BIN)/recsys pack --to dist

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs docs/_build/html

bench-%: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks.$*

clean:
	rm -rf $(VENV) .recsys dist docs/_build docs/_generated

# Each stamp is one set of packages; a second run finds it and installs nothing.
$(VENV)/.run: setup.py | java
	@set -e; python=$$(sh .ci/find-python); test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.docs: setup.py $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.bench: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

.PHONY: java
java:
	@sh .ci/find-java
