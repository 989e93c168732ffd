# `make help` lists what there is. Everything installs itself into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# Two workers a core would only wait for each other: the servers under test need the cores too.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test check format dev bench ops lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@echo "Installing into $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

install: $(INSTALLED) ## Make .venv and install what the project needs, hashes checked

demo: $(INSTALLED) ## See the jobs work: real servers, seeded data, fired over HTTP as Cloud Scheduler does
	@$(BIN)/python -m devstack.demo

test: $(INSTALLED) ## Run all tests, on real servers
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(INSTALLED) ## Format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

dev: $(INSTALLED) ## Keep a dev stack up and print the settings to export
	@$(BIN)/python -m devstack

bench: $(INSTALLED) ## Measure speed against plain SQL and an ORM loop, side by side
	@$(BIN)/python -m benchmarks

ops: $(INSTALLED) ## Run the operator's command line: make ops ARGS="migrate"
	@$(BIN)/python -m ops $(ARGS)

lock: ## Compile requirements*.in anew (needs uv); UPGRADE=--upgrade takes newer versions
	@for part in requirements requirements-dev requirements-checkov; do \
		uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			$(UPGRADE) $$part.in -o $$part.txt || exit 1; \
	done

clean: ## Remove what the project made here
	@rm -rf $(VENV) .devstack .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
