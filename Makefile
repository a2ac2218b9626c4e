.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-min
BIN := $(VENV)/bin
METHOD ?= foe
FUZZ_MINUTES ?= 60
DEMO_CONFIG_foe := recipes/foe_digits.yaml
DEMO_CONFIG_frugal := recipes/frugal_digits.yaml
DEMO_CONFIG_acorl := recipes/acorl_digits.yaml
DEMO_CONFIG_hat := recipes/hat_synthetic.yaml
# bytecode is kept, whatever the environment says: without it, each worker compiles the tests anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo test test-fast fuzz torture test-min coverage constraints-min build lint types bench notebooks sweep-check docs test-wheel clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

install: $(VENV)/.installed  ## set up .venv with everything

demo: $(VENV)/.installed  ## run the main job on embedded data (METHOD=foe, frugal, acorl or hat)
	$(BIN)/lightning-fusion recipe $(METHOD) --config $(DEMO_CONFIG_$(METHOD)) --output runs/demo_$(METHOD) --overwrite=true

test: $(VENV)/.installed  ## run all tests and doctests, a file at a time on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-fast: $(VENV)/.installed  ## run the tests that are not marked slow: the core, on each save
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests -m "not slow" --numprocesses=2 --dist=loadfile --durations=10 --durations-min=2

coverage: $(VENV)/.installed  ## run all tests and measure the lines and branches that they reach
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term --cov-report=html:runs/coverage

$(OLDEST)/.installed: pyproject.toml constraints-min.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --editable '.[dev]' --constraint constraints-min.txt
	@touch $@

fuzz: $(VENV)/.installed  ## read damaged files for FUZZ_MINUTES (60)
	FUZZ_MINUTES=$(FUZZ_MINUTES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/faults/stored/test_fuzz.py --timeout=0

torture: $(VENV)/.installed  ## kill collect, fit, save, publish, export and recipes at each of their file events
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m helpers.jobs

test-min: $(OLDEST)/.installed  ## run the fast tests with the oldest permitted dependencies
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -m "not slow" --numprocesses=2 --dist=loadfile

constraints-min: $(VENV)/.installed  ## write constraints-min.txt, the oldest permitted dependencies, anew
	$(BIN)/python -m pip install --quiet uv --constraint constraints.txt
	rm -f constraints-min.txt  # uv would keep what stands in it
	$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --resolution lowest-direct --python-version 3.11 \
		--no-header --no-annotate --strip-extras --output-file constraints-min.txt

build: $(VENV)/.installed  ## build wheel and sdist into dist/ and check their metadata
	$(BIN)/python -m pip install --quiet build twine --constraint constraints.txt
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

lint: $(VENV)/.installed  ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed  ## check types
	$(BIN)/mypy

bench: $(VENV)/.installed  ## measure speed and memory, as ratios
	$(BIN)/python benchmarks/run.py

notebooks: $(VENV)/.installed  ## execute the notebooks
	$(BIN)/python -m pytest -q tests/test_notebooks.py

sweep-check: $(VENV)/.installed  ## build each sweep's command with wandb's agent code and parse it
	$(BIN)/python -m pytest -q tests/test_sweeps.py

test-wheel: build  ## install the wheel into an empty environment, outside of the checkout, and run a recipe
	$(BIN)/python -m pip install --quiet uv --constraint constraints.txt
	rm -rf runs/wheel && mkdir -p runs/wheel/elsewhere
	$(BIN)/uv venv --quiet --python $(BIN)/python runs/wheel/.venv
	$(BIN)/uv pip install --quiet --python runs/wheel/.venv/bin/python --constraint constraints.txt dist/*.whl
	$(BIN)/uv pip check --python runs/wheel/.venv/bin/python
	cd runs/wheel/elsewhere && ../.venv/bin/lightning-fusion --version && ../.venv/bin/lightning-fusion configs foe
	cd runs/wheel/elsewhere && OMP_NUM_THREADS=1 ../.venv/bin/lightning-fusion recipe foe -c recipes/foe_digits.yaml \
		--seeds=[0] --expert_epochs=1 --fuser_epochs=1 --centralized=false
	rm -rf runs/wheel

docs: $(VENV)/.installed  ## build the documentation site into site/, to be opened at site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove caches and runs, keep .venv and .venv-min
	rm -rf runs dist build site .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
