# make demo    a whole night on the built-in data set
# make test    the whole test suite
# make check   format, lint, types, layers
# make bench-* measurements against peers; see README
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
DEMO_DATE := 2026-01-31

.PHONY: demo test check format clean

demo: $(VENV)/.run
	$(BIN)/recsys nightly --config conf/demo.yaml --run-date $(DEMO_DATE) --show 3

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-%: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks.$*

clean:
	rm -rf $(VENV) .recsys spark-warehouse

# Each stamp is one set of packages; a second run finds it and installs nothing.
$(VENV)/.run: setup.py | java
	@set -e; python=$$(sh .ci/find-python); test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.bench: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

.PHONY: java
java:
	@sh .ci/find-java
