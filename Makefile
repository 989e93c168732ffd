# `make help` lists what there is. Everything installs itself into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
CHECKOV := .venv-checkov/installed
TASKS := .venv-tasks/installed
AUDIT := .venv-audit/installed
# Two workers a core would only wait for each other: the servers under test need the cores too.
WORKERS ?= 2
# The real terraform on schemas of real providers, without the cloud. Where it is missing, plain terraform has to do.
TFCHECK := ../shared/terraform-check/tfcheck.py
PROVIDERS := 7.46.1 8.7.0
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore=tests/infra
SCHEDULES ?= 100
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-all check audit format terraform terraform-there dev console screenshots chaos docs bench ops lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@echo "Installing into $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# Programs that need other versions of what the project uses: each in a virtual environment of its own. The files name all
# dependencies; pip itself would look for some under another name, with an extra.
$(CHECKOV) $(TASKS) $(AUDIT): .venv-%/installed: requirements-%.txt
	@echo "Installing into $(@D) …"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

install: $(INSTALLED) ## Make .venv and install what the project needs, hashes checked

demo: $(INSTALLED) ## See the jobs work: real servers, seeded data, fired over HTTP as Cloud Scheduler does
	@$(BIN)/python -m devstack.demo

test: $(INSTALLED) $(TASKS) $(AUDIT) ## Try every behaviour on real servers, in minutes; the Terraform has its own tests
	@$(PYTEST) -m "not slow"

test-slow: $(INSTALLED) $(TASKS) $(AUDIT) ## Run what `make test` leaves out: long histories, many seeds, big databases
	@$(PYTEST) -m slow

test-all: $(INSTALLED) $(TASKS) $(AUDIT) ## Run both
	@$(PYTEST)

check: $(INSTALLED) ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

audit: $(INSTALLED) $(AUDIT) ## Look for known vulnerabilities, unsafe code, and secrets in the whole history
	@$(BIN)/python -m audit

format: $(INSTALLED) ## Format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

terraform-there:
	@command -v terraform >/dev/null || { echo "make terraform needs terraform 1.11 or newer on the PATH." >&2; exit 1; }

# Terraform collects its garbage in a third of its time unless it is told not to hurry.
terraform: export GOGC := 400
terraform: terraform-there $(INSTALLED) $(CHECKOV) ## Check infra/terraform: its own tests, then the plan and the archive
	@if [ -e $(TFCHECK) ]; then \
		printf '%s\n' $(PROVIDERS) | xargs -P 2 -I @ $(BIN)/python $(TFCHECK) --google @ infra/terraform; \
	else \
		terraform -chdir=infra/terraform init -backend=false && \
		terraform -chdir=infra/terraform fmt -check -recursive -diff && \
		terraform -chdir=infra/terraform validate && \
		terraform -chdir=infra/terraform test; \
	fi
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/infra

dev: $(INSTALLED) ## Keep a local cloud up, functions and schedules too, and print the settings to export
	@$(BIN)/python -m devstack

console: $(INSTALLED) ## See the operators' page with a month of made-up history, at http://127.0.0.1:8600
	@$(BIN)/python -m devstack.console_demo

screenshots: $(INSTALLED) ## Make the pictures of the operators' page in docs/images anew (needs chromium)
	@$(BIN)/python -m devstack.screenshots

chaos: $(INSTALLED) ## Play seeded schedules of faults over all six jobs: make chaos SCHEDULES=500 SEED=1
	@$(BIN)/python -m tests.chaos --schedules $(SCHEDULES) --seed $(SEED)

docs: $(INSTALLED) ## Build the handbook into build/handbook; what is wrong in it fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED) ## Measure speed against plain SQL and an ORM loop, side by side
	@$(BIN)/python -m benchmarks

ops: $(INSTALLED) ## Run the operator's command line: make ops ARGS="migrate"
	@$(BIN)/python -m ops $(ARGS)

lock: ## Compile requirements*.in anew (needs uv); UPGRADE=--upgrade takes newer versions
	@for part in requirements requirements-dev requirements-checkov requirements-tasks requirements-audit; do \
		uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			$(UPGRADE) $$part.in -o $$part.txt || exit 1; \
	done

clean: ## Remove what the project made here
	@rm -rf $(VENV) $(dir $(CHECKOV)) $(dir $(TASKS)) $(dir $(AUDIT)) .devstack .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build
	@rm -rf infra/terraform/.terraform infra/terraform/build
