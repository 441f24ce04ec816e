# Everything here needs Python >= 3.11, make and a package index. `make` alone says what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv installs the packages; it must use the Python that is here, because it may not be able to download one.
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# Tests and the demo start hundreds of processes: each would compile all of Airflow where this is set.
export PYTHONDONTWRITEBYTECODE :=
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
READY := $(VENV)/.ready
# Many tests wait for another process: more workers than there are processors keep these busy.
WORKERS ?= 4
# Tests are handed out in order and few at once: the first tier comes first, and no worker is left with many at the end.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk 8

.PHONY: help setup demo test test-all test-ui test-cluster needs-redis lint audit format docs bench bench-check dist test-matrix test-recipes test-s3 test-dlt clean

help:
	@echo "make demo    run the main job against an emulated tenant, on real Airflow, into DuckDB"
	@echo "make test    run the tests that find most per second, in under eight minutes"
	@echo "make test-all   run all tests, in about twenty-five minutes"
	@echo "make test-ui    use Airflow's pages in a real browser (needs Chromium), and take the pictures in docs/images"
	@echo "make test-cluster   Airflow with CeleryExecutor, Redis and two workers, one of which is killed (needs redis-server)"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make audit   bandit over the code, pip-audit over constraints.txt; says so where there is no data on vulnerabilities"
	@echo "make format  let ruff format the code"
	@echo "make docs    build the site of the docs"
	@echo "make bench   measure pulls, commits, what it costs to be there, and a thousand waits in a triggerer (into docs/explanation/performance.md)"
	@echo "make bench-check   see in less than a minute whether pulls have become slower than tests/benchmarks/baseline.json says"
	@echo "make dist    build wheel and sdist, check what they hold, install the wheel and use it"
	@echo "make test-matrix   run the fast tests on the oldest and the newest Airflow, by each Python that is here"
	@echo "make test-recipes  run the bulk loads with the warehouses' own providers"
	@echo "make test-s3 run the tests of pulls, loads and commits with their parts in a bucket of an S3 API on this machine"
	@echo "make test-dlt run the tests of loads by dlt that need more: Delta and Iceberg tables, and buckets of an S3 API on this machine"
	@echo "make clean   remove what the others made"

.uv/bin/uv:
	@echo "== installing uv into .uv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; say which one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(READY): pyproject.toml constraints.txt | $(UV)
	@echo "== making $(VENV) and installing the package with its tools (a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; say which one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --group dev --editable '.[dlt,duckdb,emulator,postgres]'
	@touch $@

setup: $(READY)

demo: $(READY)
	@$(BIN)/python dags_examples/demo/run.py

test: $(READY)
	$(PYTEST) $(ARGS)

test-all: $(READY)
	LIMIO_LIMITRAIL_TEST_ALL=1 $(PYTEST) $(ARGS)

test-ui: $(READY)
	@$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --group ui
	$(BIN)/python -m pytest tests/ui --screenshots docs/images $(ARGS)

test-cluster: needs-redis $(READY)
	@$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --group cluster
	$(BIN)/python -m pytest tests/cluster $(ARGS)

needs-redis:
	@command -v redis-server >/dev/null || { echo "make test-cluster needs redis-server: install the package redis-server"; exit 1; }

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file= --strict tests/typing/user_dag.py
	$(BIN)/lint-imports --no-cache

audit: $(READY)
	@$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --group audit
	@$(BIN)/python tests/packaging/audit.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs build/site
	@echo "== the site is in build/site/index.html"

bench: $(READY)
	@$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --group bench
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python tests/benchmarks/report.py
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python tests/benchmarks/waits.py --write

bench-check: $(READY)
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python tests/benchmarks/check.py

dist: | $(UV)
	@$(PYTHON) tests/packaging/make_dist.py "$(abspath $(UV))"

test-matrix: | $(UV)
	@$(PYTHON) tests/packaging/run_matrix.py "$(abspath $(UV))" --workers $(WORKERS) $(ARGS)

test-recipes: | $(UV)
	@$(PYTHON) tests/packaging/check_bulk_loads.py "$(abspath $(UV))" $(ARGS)

test-s3: | $(UV)
	@$(PYTHON) tests/packaging/check_s3.py "$(abspath $(UV))" -n $(WORKERS) $(ARGS)

test-dlt: | $(UV)
	@$(PYTHON) tests/packaging/check_dlt.py "$(abspath $(UV))" -n $(WORKERS) $(ARGS)

clean:
	rm -rf .venv .uv .demo .matrix .recipes .s3 .test-dlt build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
