# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
BIN := .venv/bin
# `python` in an experiment means the one in .venv, as it would after `source .venv/bin/activate`.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test quick check bless bench slurm pythons clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^## //p' Makefile

## make demo     train a small model with gangrun on this machine, no Slurm, and show the result
demo: .venv/.demo
	gangrun plan examples/quickstart/quickstart.toml --cluster local
	gangrun run examples/quickstart/quickstart.toml
	gangrun show latest

## make test     everything: checks, unit and local tests, the real Slurm (Debian or Ubuntu, as root)
# Hundreds of tests on a real Slurm share two cores with it: what fails is tried once more by itself, and then counts.
AGAIN := --last-failed --last-failed-no-failures=none

test: check slurm
	pytest -n 2 -m "not slurm and not torch" --ignore=tests/golden || \
	  pytest -m "not slurm and not torch" --ignore=tests/golden $(AGAIN)
	pytest -n 2 --dist loadfile -m "slurm or torch" || pytest -m "slurm or torch" $(AGAIN)
	@$(MAKE) --no-print-directory pythons

## make quick    unit tests and golden scripts, under 45 s
quick: .venv/.test
	pytest -q -n 2 -m "not slow and not slurm and not torch" -k "not golden_script_is_clean" tests/unit tests/golden

## make check    ruff, mypy, import-linter, shellcheck, golden scripts
check: .venv/.test
	ruff check src tests examples benchmarks
	ruff format --check src tests examples benchmarks
	mypy
	lint-imports
	shellcheck --shell=bash src/gangrun/script/preludes/*.sh .ci/run scripts/*.sh
	shellcheck --shell=bash --exclude=SC1091 src/gangrun/recipes/bash_files/*.sh
	pytest -q -n 2 -m "not slurm" tests/golden

## make bless    write the golden scripts anew, to be read in the diff
bless: .venv/.test
	pytest -q tests/golden --bless

## make bench    print the ratios that docs/benchmarks.md holds
bench: .venv/.test slurm
	python benchmarks/run.py

# PROGRAM:PACKAGE of what tests need besides the lab.
TEST_PROGRAMS := ch-run:charliecloud-runtime mmdebstrap:mmdebstrap podman:podman tmux:tmux chromium:chromium

# What the lab and the tests need, where we may install it; elsewhere the tests say why they are skipped.
slurm: .venv/.test
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  python -c 'from gangrun.lab import packages; packages.install(accounting=True)' && \
	  scripts/packages.sh $(TEST_PROGRAMS); \
	else echo "not root, or no apt: the tests on a real Slurm will be skipped"; fi

# The quick tests under every other Python from 3.10 on that this machine has.
pythons: .venv/.test
	scripts/pythons.sh

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gangrun needs Python 3.10 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

.venv/.test: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ .venv/.demo

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
