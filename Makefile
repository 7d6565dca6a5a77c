# The main jobs; each sets up what it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATE ?= $(shell date +%F)
EXAMPLES := $(wildcard examples/nodule-*.png)

.PHONY: help demo space test test-fast campaign lint format cards results

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv: the package with all extras, in the versions of constraints.txt (a few minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,evaluate,demo,dicom,hub,pretrained,backbones,volumes,cluster]" --group dev
	@touch $@

demo: .venv/ready  ## several masks and a confidence map for the example nodules, as pictures in demo-output/
	$(BIN)/medseglatdiff segment $(EXAMPLES) --model pipelines/medseglatdiff-lidc-idri --num-masks 16 --seed 0 --out demo-output

space: .venv/ready  ## the demo with the pipelines of pipelines/, on http://127.0.0.1:7860
	$(BIN)/medseglatdiff demo pipelines/*/

test-fast: .venv/ready  ## what runs in a minute: neither training nor programs that start
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not campaign"

test: .venv/ready  ## the whole test suite, in two processes: much of it waits for programs that start
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

campaign: .venv/ready  ## kills, damage, full disks and hostile files by the hundred (tests/faults); DATE=YYYY-MM-DD
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -m campaign --campaign-date $(DATE)

lint: .venv/ready  ## what CI checks before it tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy

format: .venv/ready  ## put the code in the format that lint checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cards: .venv/ready  ## the cards of all pipelines, from the JSON files beside them
	$(BIN)/medseglatdiff publish pipelines/*/ --card-only

results: .venv/ready  ## the results in README.md, from the JSON files in pipelines/ and benchmarks/
	$(BIN)/python benchmarks/readme_results.py
	$(BIN)/python benchmarks/ablation_tables.py
	$(BIN)/python benchmarks/readme_plots.py
