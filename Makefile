# The diffopt book. `make help` lists the commands.
PYTHON ?= python3
PIP_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
CHROMIUM := .venv/.chromium
# The tools that check the explorer's JavaScript, where npm is there to install them.
NODE_TOOLS := $(if $(shell command -v npm),node_modules/.installed)

.DEFAULT_GOAL := help
.PHONY: help book test lint types lab edit format clean distclean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(INSTALLED) ## execute the chapters that changed and build _build/html/index.html
	$(BIN)/python -m tools.build_book

test: $(CHROMIUM) $(NODE_TOOLS) lint types book ## everything: lint, types, chapters, book, unit and browser tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(INSTALLED) $(NODE_TOOLS) ## ruff and, where npm is installed, eslint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(NODE_TOOLS),node_modules/.bin/eslint .)

types: $(INSTALLED) $(NODE_TOOLS) ## mypy and, where npm is installed, tsc on the JavaScript
	$(BIN)/mypy
	$(if $(NODE_TOOLS),node_modules/.bin/tsc --checkJs --noEmit)

format: $(INSTALLED) ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: book ## build the book and open its chapters in JupyterLab, to read and run (your edits stay in notebooks/)
	$(BIN)/python -m tools.lab

edit: $(INSTALLED) ## open the chapters' sources, book/, in JupyterLab, to write them
	$(BIN)/jupyter lab --notebook-dir=book $(if $(filter 0,$(shell id -u)),--allow-root)

clean: ## remove what was built (keeps .venv)
	rm -rf _build .stage build dist .pytest_cache .mypy_cache .ruff_cache

distclean: clean ## remove .venv and node_modules too
	rm -rf .venv node_modules

$(INSTALLED): requirements.txt pyproject.toml tools/make_env.py
	$(PYTHON) tools/make_env.py .venv
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r requirements.txt -e .
	@touch $@

$(CHROMIUM): $(INSTALLED) tools/chromium.py
	$(BIN)/python tools/chromium.py
	@touch $@

node_modules/.installed: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@
