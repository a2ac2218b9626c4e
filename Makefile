.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
METHOD ?= foe
DEMO_CONFIG_foe := recipes/foe_digits.yaml
DEMO_CONFIG_frugal := recipes/frugal_digits.yaml
DEMO_CONFIG_acorl := recipes/acorl_digits.yaml
DEMO_CONFIG_hat := recipes/hat_synthetic.yaml

.PHONY: help install demo test lint types bench notebooks sweep-check clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

install: $(VENV)/.installed  ## set up .venv with everything

demo: $(VENV)/.installed  ## run the main job on embedded data (METHOD=foe, frugal, acorl or hat)
	$(BIN)/lightning-fusion recipe $(METHOD) --config $(DEMO_CONFIG_$(METHOD)) --output runs/demo_$(METHOD) --overwrite=true

test: $(VENV)/.installed  ## run all tests and doctests, a file at a time on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile

lint: $(VENV)/.installed  ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed  ## check types
	$(BIN)/mypy

bench: $(VENV)/.installed  ## measure speed and memory, as ratios
	$(BIN)/python benchmarks/run.py

notebooks: $(VENV)/.installed  ## execute the notebooks
	$(BIN)/python -m pytest -q --nbmake notebooks

sweep-check: $(VENV)/.installed  ## build each sweep's command with wandb's agent code and parse it
	$(BIN)/python -m pytest -q tests/test_sweeps.py

clean:  ## remove caches and runs, keep .venv
	rm -rf runs dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
