# The Python that makes the virtual environments of the check and of the Prefect server.
PYTHON ?= python3
# Not empty: what cannot be run because a Python is missing is an error. .ci/run sets it.
REQUIRE_ALL ?=

PYTHONS := 3.11 3.12 3.13
CALLER := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
OTHER_PYTHONS := $(filter-out $(CALLER),$(PYTHONS))
# Of Prefect's server, beside the one of requirements/server.txt.
VERSIONS := 3.0 3.2 3.4 3.6
UNIT := prefect/tests/unit
ASSETS := prefect/tests/assets
INTEGRATION := prefect/tests/integration
BIN := .venvs/check/bin
# Files of tests that wait for time-outs or make thousands of check runs.
HEAVY := $(addprefix $(INTEGRATION)/,test_slow_endpoints.py test_shares.py test_leaks.py test_tls_threads.py \
	test_auth_token_time.py)
# Most tests wait for a server; conftest.py tells which of them stay together.
SIDE_BY_SIDE := -n 3 --dist loadgroup --no-loadscope-reorder

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
# Virtual environments are kept, those of pattern rules too.
.SECONDARY:
.PHONY: help venvs check test test-heavy test-unit test-assets test-integration test-other-pythons test-oldest-base test-versions \
	test-oldest-server test-postgres soak bench dashboard recordings lint format types validate sync build clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: .venvs/check/.stamp $(if $(PREFECT_URL)$(CONF),,.venvs/server/.stamp) ## Start a Prefect server, run flows on it, and show what the check submits (PREFECT_URL=, CONF=, JSON=1)
	@case "$$CONF" in ""|/*) ;; *) CONF="$$PWD/$$CONF"; export CONF ;; esac; \
	exec $(BIN)/python -m lab.demo

# What `make test` and `make validate` need, which otherwise is made one after the other.
venvs: $(patsubst %,.venvs/%/.stamp,check server oldest server-3.0 ddev $(addprefix python,$(OTHER_PYTHONS))) ## Make the virtual environments of .ci/run (-j 2)

test: .venvs/check/.stamp .venvs/server/.stamp ## Run all tests but those of test-heavy, some also on other Pythons, the oldest base and the oldest server
	$(BIN)/pytest $(SIDE_BY_SIDE) $(addprefix --ignore=,$(HEAVY))
	@$(MAKE) test-other-pythons test-oldest-base test-oldest-server

test-heavy: .venvs/check/.stamp .venvs/server/.stamp ## Run the tests that take long: hanging endpoints, crowds, leaks, threads
	$(BIN)/pytest $(SIDE_BY_SIDE) $(HEAVY)

test-unit: .venvs/check/.stamp ## Run the unit tests
	$(BIN)/pytest $(UNIT)

test-assets: .venvs/check/.stamp ## Run the tests of dashboard, monitors, saved views and log pipeline
	$(BIN)/pytest $(ASSETS)

test-integration: .venvs/check/.stamp .venvs/server/.stamp ## Run the tests against a real Prefect server
	$(BIN)/pytest $(SIDE_BY_SIDE) $(INTEGRATION) $(addprefix --ignore=,$(HEAVY))

test-other-pythons: $(addprefix test-python,$(OTHER_PYTHONS)) ## Run the unit tests on the other Pythons that are here

test-python%:
	@if .ci/find-python $* >/dev/null; then \
		$(MAKE) .venvs/python$*/.stamp && echo "Unit tests on Python $*" && .venvs/python$*/bin/pytest $(SIDE_BY_SIDE) $(UNIT); \
	else \
		echo "There is no Python $* here, so the unit tests were not run on it." >&2; test -z "$(REQUIRE_ALL)"; \
	fi

test-oldest-base: .venvs/oldest/.stamp ## Run the unit tests on the oldest datadog-checks-base that the check works with
	@echo "Unit tests on $$(grep ^datadog-checks-base requirements/oldest.txt)"
	@.venvs/oldest/bin/pytest $(SIDE_BY_SIDE) $(UNIT)

test-versions: test-integration .venvs/server-2.20/.stamp $(addprefix test-version-,$(VERSIONS)) ## Run the integration tests on each version of the server
	PREFECT_LAB_VENV=$(CURDIR)/.venvs/server-2.20 $(BIN)/pytest $(INTEGRATION)/test_versions.py -k too_old

test-version-%: .venvs/check/.stamp .venvs/server-%/.stamp
	@echo "Integration tests on $$(grep ^prefect== requirements/server-$*.txt)"
	PREFECT_LAB_VENV=$(CURDIR)/.venvs/server-$* $(BIN)/pytest $(SIDE_BY_SIDE) $(INTEGRATION) $(addprefix --ignore=,$(HEAVY)) $(ARGS)

test-postgres: .venvs/check/.stamp .venvs/server/.stamp ## Run the integration tests on PostgreSQL, with the API and the services as two processes (ARGS=)
	PREFECT_LAB_DATABASE=postgres $(BIN)/pytest $(SIDE_BY_SIDE) $(INTEGRATION) $(addprefix --ignore=,$(HEAVY)) $(ARGS)

test-oldest-server: .venvs/check/.stamp ## Run a few tests on the oldest server that the check works with (wants Python 3.12)
	@if .ci/find-python 3.12 >/dev/null; then \
		$(MAKE) .venvs/server-3.0/.stamp && echo "Smoke test on $$(grep ^prefect== requirements/server-3.0.txt)" && \
		PREFECT_LAB_VENV=$(CURDIR)/.venvs/server-3.0 $(BIN)/pytest $(INTEGRATION)/test_versions.py; \
	else \
		echo "The oldest server wants Python 3.12, which is not here, so nothing was run on it." >&2; test -z "$(REQUIRE_ALL)"; \
	fi

soak: .venvs/check/.stamp .venvs/server/.stamp ## Count through faults and compare with the truth, for many seeds (SEEDS=, MINUTES=, SEED=, RATE=, DROP=)
	@exec $(BIN)/python -m lab.soak

dashboard: .venvs/check/.stamp $(if $(PREFECT_URL)$(RECORDING),,.venvs/server/.stamp) ## Draw the dashboard from check runs of the demo (PREFECT_URL=, SECONDS=, RECORDING=, PICTURES=0); wants chromium
	@case "$$RECORDING" in ""|/*) ;; *) RECORDING="$$PWD/$$RECORDING"; export RECORDING ;; esac; \
	exec $(BIN)/python -m lab.datadog

recordings: .venvs/check/.stamp .venvs/server/.stamp ## Record again what the tests of the monitors need, 18 minutes each (FAULTS="healthy ...")
	@exec $(BIN)/python -m lab.datadog.outages $(FAULTS)

bench: .venvs/check/.stamp .venvs/server/.stamp ## Measure what a check run costs on large servers, beside reading everything (SIZES=, RUNS=)
	@exec $(BIN)/python -m lab.bench

lint: .venvs/check/.stamp ## Check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venvs/check/.stamp ## Repair style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venvs/check/.stamp ## Check type hints
	$(BIN)/mypy

validate: ## Run ddev's validators (wants Python 3.13)
	@if .ci/find-python 3.13 >/dev/null; then \
		$(MAKE) .venvs/ddev/.stamp && .ci/validate; \
	else \
		echo "ddev wants Python 3.13, which is not here, so nothing was validated." >&2; test -z "$(REQUIRE_ALL)"; \
	fi

sync: .venvs/check/.stamp .venvs/ddev/.stamp ## Write again what is generated: config models, example configuration, metadata.csv
	.ci/validate --sync
	$(BIN)/python .ci/write_metadata.py

build: .venvs/check/.stamp ## Build the wheel into dist/
	$(BIN)/pip -q wheel --no-deps --no-build-isolation --wheel-dir dist ./prefect
	@ls dist

clean: ## Remove what make made
	rm -rf .venvs dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venvs/python%/.stamp: requirements/check.txt prefect/pyproject.toml .ci/make-venv
	@.ci/make-venv python$* "$$(.ci/find-python $*)"

.venvs/ddev/.stamp: requirements/ddev.txt .ci/make-venv
	@.ci/make-venv ddev "$$(.ci/find-python 3.13)"

.venvs/server-%/.stamp: requirements/server-%.txt .ci/make-venv
	@.ci/make-venv server-$* "$$(.ci/find-python 3.12)"

.venvs/server/.stamp: requirements/server.txt .ci/make-venv
	@.ci/make-venv server $(PYTHON)

.venvs/%/.stamp: requirements/%.txt prefect/pyproject.toml .ci/make-venv
	@.ci/make-venv $* $(PYTHON)
