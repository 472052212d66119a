# make demo | make dashboard | make test | make test-long | make lint | make bench | make bench-env | make bench-report | make bench-check | make bench-instructions | make lock
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.synced
UV_VERSION := 0.13.9
DASHBOARD := control/dashboard
DASHBOARD_SOURCES := $(wildcard $(addprefix $(DASHBOARD)/,src/* src/views/* package-lock.json build.mjs tsconfig.json))

PEERS := .venv-peers/.synced

FITS := import sys; v = sys.version.split()[0]; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and f"Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is {v}: make … PYTHON=python3.13")

.PHONY: env dashboard demo test test-long lint bench bench-env bench-report bench-check bench-instructions lock clean

env: $(STAMP) dashboard

dashboard: $(DASHBOARD)/dist/index.html

$(DASHBOARD)/dist/index.html: $(DASHBOARD_SOURCES) | $(STAMP)
	@$(DASHBOARD)/build.sh

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || { $(PYTHON) -c '$(FITS)' && $(PYTHON) -m venv .venv; }
	@test -x $(BIN)/uv || $(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q control engine kernels store
	$(BIN)/python -m engine.warm
	@touch $(STAMP)

demo: env
	$(BIN)/ta demo

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: lint
	TA_TEST_LONG=1 $(BIN)/python -m pytest -n 2 --dist loadfile --timeout=3600

bench: env
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-min-rounds=20

bench-env: $(PEERS)

$(PEERS): benchmarks/peers.lock | $(STAMP)
	$(BIN)/uv venv --quiet --python $(BIN)/python --allow-existing .venv-peers
	$(BIN)/uv pip sync --quiet --python .venv-peers/bin/python --require-hashes benchmarks/peers.lock
	@touch $(PEERS)

bench-report: env bench-env
	$(BIN)/python -m benchmarks.report

bench-check: env
	$(BIN)/python -m benchmarks.gate

bench-instructions: env
	$(BIN)/python -m benchmarks.callgrind

lock: env
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-annotate --no-header benchmarks/peers.in --output-file benchmarks/peers.lock
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --generate-hashes --no-annotate --no-header --all-extras --group test --group bench pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .venv-peers build $(DASHBOARD)/dist $(DASHBOARD)/node_modules
