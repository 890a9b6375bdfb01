# Needs git, make and any Python 3 with venv. All else is installed from the locks in envs/, which have hashes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter of all environments: the first of these that starts (a name on the path may be a shim that does not). Where
# there is none, uv brings the first. The locks hold for all of them.
PYTHONS := 3.11 3.12 3.13
PYTHON ?= $(shell for one in $(PYTHONS); do python$$one -c '' 2>/dev/null && command -v python$$one && break; done)
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
BENCHMARK := .venv-benchmark
RELEASE := .venv-release
SNAKEFILES := Snakefile workflow

.PHONY: help
help:
	@echo 'An Inverse Scaling Law for CLIP Training, executable. What you can make:'
	@echo
	@echo '  make demo            measure the law on this machine (micro scale, one new seed; at most 20 minutes on two cores)'
	@echo '  make demo SIZE=ci    check that every job runs (at most 5 minutes; measures nothing)'
	@echo '  make test            the test suite'
	@echo '  make slurm-test      the workflow under a SLURM of two nodes, started here: jobs cut off, cancelled, killed (at most 8 minutes)'
	@echo '  make reader          install the small environment for figures and numbers (no torch): $(READER)'
	@echo '  make environment     install the full environment: $(TRAIN)'
	@echo '  make data            install the environment that downloads images (img2dataset): $(DATA)'
	@echo '  make benchmark       install what open_clip'"'"'s own trainer needs besides, for benchmarks: $(BENCHMARK)'
	@echo '  make tagger          install the part-of-speech tagger of the paper scale into $(TRAIN)'
	@echo '  make lint format     check, or fix, the style of code and rules'
	@echo '  make container       an image with the full environment, by podman or ENGINE=docker: clipa:latest'
	@echo '  make locks           resolve envs/*.in again (then run the tests)'
	@echo '  make release         the wheel, the RO-Crate, Croissant, and what their validators say: dist/'
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
	@echo 'Installing uv into $(TOOLS) ...'
	@'$(or $(PYTHON),python3)' -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r envs/bootstrap.lock
	@touch $@

# $(call install,FOLDER,NAME): the environment of envs/NAME.lock in FOLDER. Its Python is checked first.
define install
	@'$(or $(PYTHON),$(TOOLS)/bin/python)' -c 'import sys; have = "%d.%d" % sys.version_info[:2]; wrong = "$(PYTHON)" and have not in "$(PYTHONS)".split(); sys.exit("Python $(PYTHONS) are supported, $(PYTHON) is " + have + ": make PYTHON=/path/to/one/of/them ..." if wrong else 0)'
	@echo 'Installing $(1) from envs/$(2).lock ...'
	@test -x $(1)/bin/python || $(UV) venv --quiet --python '$(or $(PYTHON),$(firstword $(PYTHONS)))' $(1) || \
		{ echo 'No Python of $(PYTHONS) is here and uv brought none: install one, or make PYTHON=/path/to/it ...' >&2; exit 1; }
	@env -u PYTHONDONTWRITEBYTECODE $(UV) pip sync --quiet --python $(1)/bin/python \
		--require-hashes --compile-bytecode envs/$(2).lock
	@touch $(1)/.installed
endef

$(TRAIN)/.installed: envs/train.lock $(TOOLS)/.installed
	@echo 'Some gigabytes, a few minutes the first time.'
	$(call install,$(TRAIN),train)

# Every other environment is called after its lock.
.venv-%/.installed: envs/%.lock $(TOOLS)/.installed
	$(call install,.venv-$*,$*)

# A layer over the training environment: what it has itself comes first, all else is found there.
SITE = import sysconfig; print(sysconfig.get_path("purelib"))
.PHONY: benchmark
benchmark: $(BENCHMARK)/.installed $(TRAIN)/.installed
	@$(TRAIN)/bin/python -c '$(SITE)' > "$$($(BENCHMARK)/bin/python -c '$(SITE)')/train.pth"
	@$(BENCHMARK)/bin/python -c 'import open_clip_train.main, webdataset; print("Ready: webdataset", webdataset.__version__)'

# Only the paper scale tags real captions, so only it needs the tagger (13 MB, from a host of its own).
.PHONY: tagger
tagger: $(TRAIN)/.installed
	@$(UV) pip install --quiet --python $(TRAIN)/bin/python --no-deps --require-hashes -r envs/tagger.txt
	@$(TRAIN)/bin/python -c 'import spacy; print("Ready:", spacy.load("en_core_web_sm").meta["name"])'

# The package is not installed but imported from src/, so an environment never has an old copy of it.
%/bin/clipa: %/.installed
	@echo '$(CURDIR)/src' > "$$($*/bin/python -c '$(SITE)')/clipa.pth"
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m clipa "$$@"\n' > $@ && chmod +x $@

# The lock's digest is computed here, and compared in the build. BUILD: further options, as --build-arg BASE=IMAGE.
ENGINE ?= podman
BUILD ?=
SHA256 = import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
.PHONY: container
container:
	$(ENGINE) build --file envs/Containerfile --tag clipa $(BUILD) \
		--build-arg LOCK_SHA256=$(shell '$(or $(PYTHON),python3)' -c '$(SHA256)' envs/train.lock) envs

.PHONY: locks
# One lock for every system and Python: `fewest` takes one version of a package for all of them where there is one. The
# reader's and the training lock come first, since others name them as constraints (`-c`).
COMPILE = $(UV) pip compile --quiet --universal --fork-strategy fewest --python-version $(firstword $(PYTHONS)) \
	--generate-hashes --no-strip-extras --no-header --no-annotate
LOCKS := reader train $(filter-out reader train,$(basename $(notdir $(wildcard envs/*.in))))
locks: $(TOOLS)/.installed
	@for name in $(LOCKS); do echo "envs/$$name.lock"; $(COMPILE) envs/$$name.in -o envs/$$name.lock || exit 1; done
	$(TOOLS)/bin/python envs/mirror.py

# ------------------------------------------------------------------------------------------------- the work

.PHONY: demo
demo: $(TRAIN)/.installed
	@$(TRAIN)/bin/python -m clipa demo --size $(SIZE)

.PHONY: test
test: $(TRAIN)/.installed
	@OMP_NUM_THREADS=1 $(TRAIN)/bin/python -m pytest -n $(JOBS) --dist loadfile

# Needs root, and slurm-wlm and munge (Debian).
.PHONY: slurm-test
slurm-test: $(TRAIN)/.installed
	@PYTHONPATH=src:tests $(TRAIN)/bin/python tests/slurm_cases.py

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
	$(UV) tool run --quiet --python '$(or $(PYTHON),$(firstword $(PYTHONS)))' --from cffconvert==2.0.0 cffconvert --validate

# Validators need no network, but cffconvert is installed for the first time from a registry.
.PHONY: release
release: $(RELEASE)/.installed $(RELEASE)/bin/clipa citation
	@PYTHONPATH=src:. $(RELEASE)/bin/python -m release

.PHONY: clean
clean:
	rm -rf dist dist.partial results/runs results/data .snakemake/locks .snakemake/log .snakemake/incomplete .snakemake/metadata
