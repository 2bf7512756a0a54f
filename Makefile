# make demo          a whole night on the built-in data set
# make airflow       the same under Airflow, which gets an environment of its own
# make test          the tests but the slow ones
# make test-slow     whole nights, a cluster, and other tests that take their time
# make test-long     nights that are killed, on a full disk, under Airflow in a backfill; models beside others
# make test-fast     the tests that need no Java and little compiling
# make check         format, lint, types, layers
# make docs          the documents, in docs/_build/html
# make notebooks     the notebooks anew, on the demo's tables, with their outputs
# make pictures      the README's pictures, of the demo's report, by Chromium
# make dist          what a cluster lacks to run a night, in dist; see docs/cluster.md
# make bench-*       measurements against peers; see docs/benchmarks.md
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
DEMO_DATE := 2026-01-31
AIRFLOW := .venv-airflow
PEERS := .venv-peers

.PHONY: demo airflow test test-slow test-long test-fast check format docs notebooks pictures dist clean

demo: $(VENV)/.run
	$(BIN)/recsys nightly --config conf/demo.yaml --run-date $(DEMO_DATE) --show 3

airflow: export AIRFLOW_HOME := $(CURDIR)/.recsys/airflow
airflow: export AIRFLOW__CORE__LOAD_EXAMPLES := False
airflow: export AIRFLOW__CORE__DAGS_FOLDER := $(CURDIR)/jobs/airflow
airflow: export AIRFLOW_CONN_SPARK_DEFAULT := {"conn_type": "spark", "host": "local[*]"}
airflow: export AIRFLOW_VAR_RECSYS_HOME := $(CURDIR)
airflow: export AIRFLOW_VAR_RECSYS_CONFIG := $(CURDIR)/conf/demo.yaml
airflow: export AIRFLOW_VAR_RECSYS_ENV := {"PYSPARK_PYTHON": "$(CURDIR)/$(BIN)/python"}
airflow: $(VENV)/.run $(AIRFLOW)/.airflow
	$(AIRFLOW)/bin/airflow db migrate
	PATH="$(CURDIR)/$(BIN):$$PATH" $(AIRFLOW)/bin/airflow dags test recsys_nightly $(DEMO_DATE)
	$(BIN)/recsys show --config conf/demo.yaml

test: test-fast
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "spark and not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.test $(AIRFLOW)/.airflow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not long" $(PYTEST_ARGS)

test-long: $(VENV)/.test $(AIRFLOW)/.airflow
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

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

notebooks: $(VENV)/.notebooks
	cd notebooks && ../$(BIN)/jupytext --to ipynb --execute *.py

pictures: $(VENV)/.test
	$(BIN)/python docs/pictures.py .recsys/demo/reports/$(DEMO_DATE).html

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs docs/_build/html

bench-peers: $(PEERS)/.peers

bench-%: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks.$*

clean:
	rm -rf $(VENV) $(AIRFLOW) $(PEERS) .recsys dist docs/_build docs/_generated

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

$(VENV)/.notebooks: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[notebooks]'
	@touch $@

$(VENV)/.bench: setup.py $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

# Airflow wants other versions of pandas and of what else it uses than Spark does.
$(AIRFLOW)/.airflow: jobs/airflow/requirements.txt
	@set -e; python=$$(sh .ci/find-python); test -x $(AIRFLOW)/bin/python || "$$python" -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/python -m pip install --quiet --requirement jobs/airflow/requirements.txt
	@touch $@

# So does a library that a benchmark measures against.
$(PEERS)/.peers: tests/benchmarks/requirements-peers.txt
	@set -e; python=$$(sh .ci/find-python); test -x $(PEERS)/bin/python || "$$python" -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement tests/benchmarks/requirements-peers.txt
	@touch $@

.PHONY: java
java:
	@sh .ci/find-java
