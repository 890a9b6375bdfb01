# Needs Python 3.11 (with venv), git and make. All else is installed from the locks in envs/, which have hashes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
SIZE ?= full
JOBS ?= 2

export PYTHONPATH := src
export HF_HUB_OFFLINE := 1
export NO_ALBUMENTATIONS_UPDATE := 1

TOOLS := .venv-tools
UV := $(TOOLS)/bin/uv
TRAIN := .venv
READER := .venv-reader
DATA := .venv-data
SNAKEFILES := Snakefile workflow

.PHONY: help
help:
	@echo 'An Inverse Scaling Law for CLIP Training, executable. What you can make:'
	@echo
	@echo '  make demo            measure the law on this machine (micro-v1 scale; at most 20 minutes on two cores)'
	@echo '  make demo SIZE=ci    check that every job runs (at most 5 minutes; measures nothing)'
	@echo '  make test            the test suite'
	@echo '  make reader          install the small environment for figures and numbers (no torch): $(READER)'
	@echo '  make environment     install the full environment: $(TRAIN)'
	@echo '  make data            install the environment that downloads images (img2dataset): $(DATA)'
	@echo '  make tagger          install the part-of-speech tagger of the paper scale into $(TRAIN)'
	@echo '  make lint format     check, or fix, the style of code and rules'
	@echo '  make locks           resolve envs/*.in again (then run the tests)'
	@echo '  make clean           remove what jobs wrote (results/runs, results/data); accepted records and figures stay'
	@echo
	@echo 'With an environment active (source $(READER)/bin/activate):'
	@echo '  snakemake figures tables pages                      every figure, table and page from stored numbers'
	@echo '  snakemake figures/figure4.pdf                       one figure from the published numbers'
	@echo '  clipa cite L/16 resize 64 finetune                  one number, with its citation and its errata'
	@echo '  snakemake measure_figure4 --config scale=micro-v1   the same figure from measured numbers'
	@echo '  snakemake --profile slurm all -n                    dry run at the scale of the paper'

# ---------------------------------------------------------------------------------------------- environments
# Compile bytecode once here: otherwise every job compiles its imports again and starts several times slower.

.PHONY: environment reader data
environment: $(TRAIN)/.installed $(TRAIN)/bin/clipa
reader: $(READER)/.installed $(READER)/bin/clipa
	@echo 'Ready: source $(READER)/bin/activate && snakemake figures/figure4.pdf'

data: $(DATA)/.installed
	@echo 'Ready: clipa data fetch --help'

$(TOOLS)/.installed: envs/bootstrap.lock
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@echo 'Installing uv into $(TOOLS) ...'
	@'$(PYTHON)' -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/bootstrap.lock
	@touch $@

$(TRAIN)/.installed: envs/train.lock $(TOOLS)/.installed
	@echo 'Installing $(TRAIN) from envs/train.lock (some gigabytes, a few minutes the first time) ...'
	@test -x $(TRAIN)/bin/python || '$(PYTHON)' -m venv --without-pip $(TRAIN)
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(TRAIN)/bin/python \
		--require-hashes --compile-bytecode envs/train.lock
	@touch $@

$(READER)/.installed: envs/reader.lock $(TOOLS)/.installed
	@echo 'Installing $(READER) from envs/reader.lock ...'
	@test -x $(READER)/bin/python || '$(PYTHON)' -m venv --without-pip $(READER)
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(READER)/bin/python \
		--require-hashes --compile-bytecode envs/reader.lock
	@touch $@

$(DATA)/.installed: envs/data.lock $(TOOLS)/.installed
	@echo 'Installing $(DATA) from envs/data.lock ...'
	@test -x $(DATA)/bin/python || '$(PYTHON)' -m venv --without-pip $(DATA)
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(DATA)/bin/python \
		--require-hashes --compile-bytecode envs/data.lock
	@touch $@

# Only the paper scale tags real captions, so only it needs the tagger (13 MB, from a host of its own).
.PHONY: tagger
tagger: $(TRAIN)/.installed
	@$(UV) pip install --quiet --python $(TRAIN)/bin/python --no-deps --require-hashes -r envs/tagger.txt
	@$(TRAIN)/bin/python -c 'import spacy; print("Ready:", spacy.load("en_core_web_sm").meta["name"])'

# The package is not installed but imported from src/, so an environment never has an old copy of it.
%/bin/clipa: %/.installed
	@echo '$(CURDIR)/src' > $*/lib/python3.11/site-packages/clipa.pth
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m clipa "$$@"\n' > $@ && chmod +x $@

.PHONY: locks
COMPILE = $(UV) pip compile --quiet --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-annotate
locks: $(TOOLS)/.installed
	$(COMPILE) envs/reader.in -o envs/reader.lock
	$(COMPILE) envs/parquet.in -o envs/parquet.lock
	$(COMPILE) envs/train.in -c envs/reader.lock -c envs/parquet.lock -o envs/train.lock
	$(COMPILE) envs/data.in -o envs/data.lock
	$(TOOLS)/bin/python envs/mirror.py

# ------------------------------------------------------------------------------------------------- the work

.PHONY: demo
demo: $(TRAIN)/.installed
	@$(TRAIN)/bin/python -m clipa demo --size $(SIZE)

.PHONY: test
test: $(TRAIN)/.installed
	@OMP_NUM_THREADS=1 $(TRAIN)/bin/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: lint format
lint: $(TRAIN)/.installed
	$(TRAIN)/bin/ruff check .
	$(TRAIN)/bin/ruff format --check .
	$(TRAIN)/bin/snakefmt --check $(SNAKEFILES)
	$(TRAIN)/bin/snakemake --lint
format: $(TRAIN)/.installed
	$(TRAIN)/bin/ruff format .
	$(TRAIN)/bin/snakefmt $(SNAKEFILES)
	$(TRAIN)/bin/ruff check --fix .

.PHONY: citation
citation: $(TOOLS)/.installed
	$(UV) tool run --quiet --python '$(PYTHON)' --from cffconvert==2.0.0 cffconvert --validate

.PHONY: clean
clean:
	rm -rf results/runs results/data .snakemake/locks .snakemake/log .snakemake/incomplete .snakemake/metadata
