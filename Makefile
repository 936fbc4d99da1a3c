# Needs python3 >= 3.11 with pip or venv, make and git. All that it builds lies under .build/.
#
# Another interpreter, beside the usual environments:
#   make test-airflow-3.3 PYTHON=/path/to/python3.13 BUILD=.build/py3.13

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

MINORS := 3.3 2.11 3.2 3.1 3.0
BUILD := .build
LATEST := $(BUILD)/airflow-3.3/bin
UV_VERSION := 0.13.9
UV := $(BUILD)/uv-$(UV_VERSION)/bin/uv

# The Pythons that every Airflow here installs on; uv takes the first on PATH that fits.
PYTHON ?= >=3.11,!=3.13.0,<3.14
export UV_PYTHON_DOWNLOADS := never
# Trust what this machine's pip and git trust, such as a company's proxy, where the usual file says what that is.
export UV_SYSTEM_CERTS := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),true,false)
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH VIRTUAL_ENV

.PHONY: help
help:  ## list the targets
	@sed -nE 's/^([a-z0-9.%-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

.PHONY: demo
demo: env-airflow-3.3  ## wait for deliveries in real Airflow, against the sandbox
	@$(LATEST)/python -m scripts.demo --output $(BUILD)/demo

# --- Tests ------------------------------------------------------------------------------------------
# Marks (pyproject.toml) say which tests run where. The targets run one after the other, and a whole Airflow runs alone.
.NOTPARALLEL:

.PHONY: test
test: fresh-results lint test-bare test-unit-3.3 test-unit-2.11 test-deployment-3.3  ## lint, all unit tests, a whole Airflow (8 minutes)
	@$(call summary,$(BEYOND_TEST) $(BEYOND_ALL))

.PHONY: test-all
test-all: test test-rest  ## make test, and all that make test-rest runs (20 minutes)

.PHONY: test-rest
test-rest: fresh-results docs test-wheel test-histories test-system-3.3 test-system-2.11 $(addprefix test-airflow-,3.2 3.1 3.0) \
		test-lowest test-pages-3.3 test-pages-2.11 test-demo  ## what make test leaves out: other minors, lowest versions, docs, browser, databases, wheel, demo
	@$(call summary,--left-out "lint; all unit tests; a whole Airflow 3.3: make test" $(BEYOND_ALL))

.PHONY: test-quick
test-quick: fresh-results lint test-bare-quick test-unit-3.3-quick  ## lint, and the quick unit tests: without Airflow, and on Airflow 3.3 (90 seconds)
	@$(call summary,--left-out "slow unit tests; Airflow 2.11; a whole Airflow: make test" $(BEYOND_TEST) $(BEYOND_ALL))

BEYOND_TEST := --left-out "9,500 of 10,000 histories; DAGs that Airflow runs in one process; PostgreSQL and S3; the other minors and the lowest \
	versions; docs; the pages in a browser; the wheel; the demo: make test-all"
BEYOND_ALL := --left-out "kills in a whole Airflow: make test-chaos" --left-out "the hours of a send in a whole Airflow: make test-hours" --left-out "CeleryExecutor: make e2e-celery" \
	--left-out "Azure and Google: make e2e-stores" --left-out "Airflow's pre-release: make test-airflow-next" \
	--left-out "a million histories: make simulate" --left-out "mutants: make mutants"
RESULTS := $(BUILD)/results
summary = echo; $(LATEST)/python -m scripts.test_summary $(RESULTS) $(1)
.PHONY: fresh-results
fresh-results:
	@rm -rf $(RESULTS)

# The files decide the random order and hypothesis' examples: a commit that has passed passes again, the next one has
# another order. make test TEST_SEED=... takes another one.
TEST_SEED := $(shell git ls-files --stage 2>/dev/null | cksum | cut -d ' ' -f 1)
PYTEST = -m pytest --randomly-seed $(TEST_SEED) --hypothesis-seed $(TEST_SEED) --junitxml $(RESULTS)/$@.xml \
	--numprocesses $(WORKERS) $(DISTRIBUTION) $(PYTEST_OPTIONS)
# Many tests wait, so there are more workers than cores. A module is not split, since its tests may share an Airflow.
WORKERS := 3
DISTRIBUTION := --dist loadfile --no-loadscope-reorder
IN_ONE_PROCESS := not deployment and not demo and not ui and not chaos and not celery

.PHONY: test-bare test-bare-quick test-histories
test-bare test-bare-quick test-histories: WORKERS := 6
test-bare test-bare-quick test-histories: DISTRIBUTION := --dist worksteal
test-bare: env-bare  ## the tests of what does not need Airflow, in an environment without it
	$(BUILD)/bare/bin/python $(PYTEST) tests -m "not (simulation and slow)"
test-bare-quick: env-bare
	$(BUILD)/bare/bin/python $(PYTEST) tests -m "not slow"
test-histories: env-bare  ## 9,500 histories of callers against a modelled API; make test-bare has 500 others
	$(BUILD)/bare/bin/python $(PYTEST) tests/simulation -m slow

.PHONY: test-unit-3.3-quick
test-unit-3.3-quick: DISTRIBUTION := --dist worksteal
test-unit-3.3-quick: env-airflow-3.3
	$(LATEST)/python $(PYTEST) tests/unit -m "airflow and not slow"

test-unit-%: env-airflow-%  ## the unit tests of what needs Airflow, on one of its minors, e.g. make test-unit-3.1
	$(BUILD)/airflow-$*/bin/python $(PYTEST) tests/unit -m airflow

test-system-%: env-airflow-%  ## DAGs that Airflow runs in one process, with real databases and stores
	$(BUILD)/airflow-$*/bin/python $(PYTEST) tests/system -m "$(IN_ONE_PROCESS)"

FOLDERS := tests/unit tests/system
test-airflow-3.0: FOLDERS := tests/system
# One case of each test: the newest and the oldest Airflow have run all of them, with all of its tests. The unit tests on
# 3.0 are in test-lowest-3.0.
test-airflow-%: env-airflow-%  ## the quick tests of the interfaces in which Airflow's minors differ: unit and system tests
	$(BUILD)/airflow-$*/bin/python $(PYTEST) $(FOLDERS) --cases 1 \
		-m "airflow and not outer_minors and not slow and $(IN_ONE_PROCESS)"

# One process: these tests share one whole Airflow, and nothing else of weight may run beside it.
test-deployment-% test-pages-% test-ui-%: WORKERS := 0
test-deployment-%: env-airflow-%  ## the tests that share one whole Airflow, but for the slow ones
	$(BUILD)/airflow-$*/bin/python $(PYTEST) tests/system -m "deployment and not slow and $(IN_NO_BROWSER)"
test-pages-%: env-airflow-%  ## the slow ones, and Airflow's pages in chromium
	$(BUILD)/airflow-$*/bin/python $(PYTEST) tests/system -m "deployment and (slow or ui) and not hours and not celery and not chaos"
test-ui-%: env-airflow-%
	$(BUILD)/airflow-$*/bin/python $(PYTEST) tests/system/ui $(UI_OPTIONS)
IN_NO_BROWSER := not ui and not celery and not chaos

.PHONY: test-demo
test-demo: WORKERS := 0
test-demo: env-airflow-3.3
	$(LATEST)/python $(PYTEST) tests/system/test_demo.py

.PHONY: test-airflow-next
test-airflow-next: env-airflow-next  ## unit and system tests on Airflow's newest pre-release (not in CI, 5 minutes)
	$(BUILD)/airflow-next/bin/python $(PYTEST) tests/unit tests/system -m "airflow and $(IN_ONE_PROCESS)"

.PHONY: test-lowest
test-lowest: test-lowest-2.11 test-lowest-3.0  ## the quick unit tests, one case of each, on the lowest versions that pyproject.toml allows

# What does not need Airflow runs beside one of them: the other packages are the same.
test-lowest-3.0: ONLY_THOSE := and airflow
test-lowest-2.11 test-lowest-3.0: DISTRIBUTION := --dist worksteal
test-lowest-%: env-lowest-%
	$(BUILD)/lowest-$*/bin/python $(PYTEST) tests/unit --cases 1 -m "not slow $(ONLY_THOSE)"

.PHONY: test-hours
test-hours: env-airflow-3.3  ## sends that wait for their hours, in a whole Airflow (5 minutes)
	$(LATEST)/python -m pytest -m hours tests/system

.PHONY: test-chaos
test-chaos: env-airflow-3.3  ## kill parts of a whole Airflow on PostgreSQL, mid-wait (10 minutes)
	$(LATEST)/python -m pytest -m chaos tests/system/chaos

.PHONY: e2e-celery
e2e-celery: env-airflow-3.3  ## the examples on CeleryExecutor, with Redis and two workers (3 minutes)
	$(LATEST)/python -m pytest -m celery tests/system/test_celery.py

.PHONY: e2e-stores
e2e-stores: env-stores  ## bulk fetches against emulators of Azure and Google, from npm and pip (not in CI, 4 minutes)
	@command -v npm >/dev/null || { echo "npm is not on PATH. Install Node.js: Azurite comes from npm." >&2; exit 1; }
	@test -x $(BUILD)/azurite/node_modules/.bin/azurite-blob || \
		npm install --silent --no-fund --no-audit --prefix $(BUILD)/azurite azurite@3
	PATH="$(abspath $(BUILD)/azurite/node_modules/.bin):$$PATH" \
		$(BUILD)/stores/bin/python -m pytest tests/system/stores/test_emulators.py

.PHONY: mutants
mutants: env-airflow-3.3  ## change the core one place at a time with mutmut: do the tests notice? (MUTANTS='*.api.retrying.*')
	@$(UV) pip install --quiet --python $(BUILD)/airflow-3.3 --constraints constraints/airflow-3.3.txt --group mutants
	$(LATEST)/mutmut run $(if $(MUTANTS),'$(MUTANTS)')
	@$(LATEST)/mutmut results

SEEDS := 100000
.PHONY: simulate
simulate: env-bare  ## play histories of callers against a modelled API (SEEDS=1000000; one in detail: SEEDS=17..17)
	@$(BUILD)/bare/bin/python -m tests.simulation $(SEEDS)

.PHONY: screenshots
screenshots: UI_OPTIONS := --screenshots docs/images
screenshots: test-ui-3.3 test-ui-2.11  ## renew the pictures in docs/images/

.PHONY: test-wheel
test-wheel: test-wheel-3.3 test-wheel-2.11  ## the built wheel alone, beside Airflow

# Airflow finds the provider and its connection type in what users install. One command, so nothing is compiled for it.
test-wheel-%: dist
	@echo "Installing the wheel beside Airflow $* ..."
	@$(UV) venv --quiet --clear --no-project --python '$(PYTHON)' $(BUILD)/wheel-$*
	@$(UV) pip install --quiet --python $(BUILD)/wheel-$* \
		--constraints constraints/airflow-$*.txt --requirements constraints/airflow-$*.in dist/*.whl
	@AIRFLOW_HOME=$$(mktemp -d); export AIRFLOW_HOME PYTHONWARNINGS=ignore; trap 'rm -rf "$$AIRFLOW_HOME"' EXIT; \
		$(BUILD)/wheel-$*/bin/python -P -m airflow providers hooks | \
		grep '^rtisms .*rtisms_conn_id .*airflow-provider-rtisms'

.PHONY: docs
docs: env-airflow-3.3  ## build docs/ into .build/docs, warnings as errors
	@$(LATEST)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs $(BUILD)/docs
	@echo "The documentation: $(BUILD)/docs/index.html"

.PHONY: dist
dist: env-airflow-3.3  ## build and check wheel and sdist, in dist/
	@rm -rf dist
	@$(UV) build --quiet --build-constraints constraints/airflow-3.3.txt --python $(LATEST)/python --out-dir dist
	@rm -f dist/.gitignore
	@$(LATEST)/twine check --strict dist/*

.PHONY: sbom
sbom: test-wheel-3.3  ## what the wheel was tested with, as a CycloneDX document in .build/sbom.cdx.json
	@$(LATEST)/cyclonedx-py environment --output-reproducible --output-file $(BUILD)/sbom.cdx.json $(BUILD)/wheel-3.3

.PHONY: lint
lint: env-airflow-3.3  ## ruff (bandit's rules included), mypy, codespell, zizmor, and whether the pinned packages fit together
	$(LATEST)/ruff check .
	$(LATEST)/ruff format --check .
	$(LATEST)/mypy
	$(LATEST)/codespell
	$(LATEST)/zizmor --quiet --offline .github
	$(UV) pip check --python $(BUILD)/airflow-3.3

.PHONY: format
format: env-airflow-3.3  ## let ruff mend what it can
	$(LATEST)/ruff check --fix .
	$(LATEST)/ruff format .

.PHONY: bench
bench: env-airflow-3.3  ## compare with other ways to fetch and to wait; tables and plot go to docs/
	@$(UV) pip install --quiet --python $(BUILD)/airflow-3.3 --constraints constraints/airflow-3.3.txt --group bench
	export AIRFLOW_HOME=$$(mktemp -d); trap 'rm -rf "$$AIRFLOW_HOME"' EXIT; \
	$(LATEST)/python -m benchmarks --output docs

.PHONY: bench-million
bench-million: env-airflow-3.3  ## fetch a million ids, here and into S3, with kill -9 and SIGTERM on the way (8 minutes)
	export AIRFLOW_HOME=$$(mktemp -d); trap 'rm -rf "$$AIRFLOW_HOME"' EXIT; \
	$(LATEST)/python -m benchmarks.million --output docs

.PHONY: constraints
constraints: $(MINORS:%=constraints-%) constraints-lowest-2.11 constraints-lowest-3.0  ## pin what pyproject.toml asks for (UPGRADE=1: all to the newest)

.PHONY: clean
clean:  ## remove all that make has built
	rm -rf $(BUILD) dist mutants

# --- Environments: $(BUILD)/airflow-X.Y and $(BUILD)/bare -------------------------------------------

# Two makes in one clone take turns; the second then finds the environment ready.
LOCKED := $(if $(shell command -v flock),flock $(BUILD)/lock)
env-%:
	@mkdir -p $(BUILD)
	@$(LOCKED) $(MAKE) --silent --no-print-directory $(BUILD)/$*/.ready

# $(call build_environment,CONSTRAINTS,WHAT TO INSTALL)
define build_environment
	@echo "Building $(@D) ..."
	@$(UV) venv --quiet --clear --no-project --python '$(PYTHON)' $(@D) || \
		{ echo "Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(UV) pip install --quiet --compile-bytecode --python $(@D) \
		--constraints $(1) --build-constraints $(1) $(2)
	@touch $@
endef

# A variable, since a comma would divide the arguments of a call.
EXTRAS := parquet,phones
GROUPS = --group dev
$(LATEST:%/bin=%)/.ready constraints-3.3: GROUPS += --group docs --group release --group system
constraints-3.3: GROUPS += --group bench --group mutants
$(BUILD)/airflow-%/.ready: pyproject.toml constraints/airflow-%.txt | $(UV)
	$(call build_environment,constraints/airflow-$*.txt,$(GROUPS) --editable '.[$(EXTRAS)]')

# Renewed each time: there may be a newer one.
.PHONY: $(BUILD)/airflow-next/.ready
$(BUILD)/airflow-next/.ready: | $(UV)
	$(call build_environment,constraints/airflow-next.in,--requirements constraints/airflow-next.in \
		--group dev --group system --editable '.[$(EXTRAS)]')

# Not pinned: the providers of Google and Microsoft do not fit beside the pins of the other environments.
$(BUILD)/stores/.ready: pyproject.toml constraints/stores.in | $(UV)
	$(call build_environment,constraints/stores.in,--requirements constraints/stores.in --group test --editable '.[$(EXTRAS)]')

$(BUILD)/lowest-%/.ready: EXTRAS := parquet,phones,sql
$(BUILD)/lowest-%/.ready: pyproject.toml constraints/lowest-%.txt | $(UV)
	$(call build_environment,constraints/lowest-$*.txt,--group test --group sqlite --editable '.[$(EXTRAS)]')

$(BUILD)/bare/.ready: pyproject.toml constraints/airflow-3.3.txt constraints/without-airflow.txt | $(UV)
	$(call build_environment,constraints/airflow-3.3.txt,--excludes constraints/without-airflow.txt --group test --editable '.[phones]')

# Phony, so that a changed pyproject.toml never renews a pin by itself; markers keep one file right for each Python.
constraints-%: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate \
		$(if $(UPGRADE),--upgrade) $(GROUPS) --extra parquet --extra phones pyproject.toml constraints/airflow-$*.in \
		--output-file constraints/airflow-$*.txt

constraints-lowest-%: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --resolution lowest-direct \
		$(if $(UPGRADE),--upgrade) --group test --group sqlite --extra parquet --extra phones --extra sql pyproject.toml \
		--constraints constraints/lowest-$*.in --output-file constraints/lowest-$*.txt

$(UV):
	@echo "Getting uv $(UV_VERSION) ..."
	@python3 -m pip install -qq --target $(BUILD)/uv-$(UV_VERSION) uv==$(UV_VERSION) || { \
		python3 -m venv --clear $(BUILD)/uv-$(UV_VERSION) && \
		$(BUILD)/uv-$(UV_VERSION)/bin/python -m pip install -qq uv==$(UV_VERSION); }
