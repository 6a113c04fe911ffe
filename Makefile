# Everything one does with a checkout. `make` alone lists it.

# ---- settings --------------------------------------------------------------------------------------------------
# PYTHON          the Python that makes .venv; 3.11 or newer. Default: the first of python3.11, python3, … that will do.
# TORCH           what to ask pip for. Default: the CPU build that the pins in requirements/cpu.txt belong to.
# TORCH_PIP_ARGS  more arguments for the pip call that installs torch, and for that call alone. PyPI does not carry the
#                 CPU build: unless your pip already has a place to find it, name PyTorch's own CPU index here
#                 (--index-url …; PyTorch's installation guide shows the address) or a folder with the wheel
#                 (--find-links …).
# UPGRADE=1       lets `make lock` take newer versions.
# ARGS            more arguments for pytest, licet demo or the benchmarks: make test ARGS='tests/ledger -k merkle'
export PYTHON ?=
export TORCH ?= torch==2.13.0+cpu
export TORCH_PIP_ARGS ?=

SHELL := /bin/bash -o pipefail
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench torture fuzz lock clean

help: ## this list
	@echo "make …"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## make .venv from the pins; does nothing when it is up to date
	@requirements/setup.sh

demo: setup ## in two minutes: attest, train a small governed model, let it recite, ask, prove, attack
	@$(BIN)/licet demo $(ARGS)

test: setup ## the tests, two files at a time
	$(PYTEST) -n 2 --dist loadfile $(ARGS)

check: setup ## style, types, direction of imports, and that the README's commands hold
	@failed=; run() { echo "== $$1"; "$${@:2}" || failed="$$failed, $$1"; }; \
	types() { $(BIN)/mypy | sed 's#^\.venv/typing/licet/##'; }; \
	run style $(BIN)/ruff check . ; \
	run format $(BIN)/ruff format --check . ; \
	run types types; \
	run imports $(BIN)/lint-imports --no-logo; \
	if [ -d tests/readme ]; then run readme $(PYTEST) tests/readme; fi; \
	if [ -n "$$failed" ]; then echo "make check failed: $${failed#, }"; exit 1; fi

bench: setup ## measure the ledger and the policies, peers in the same run
	$(BIN)/python -m benchmarks.ledger $(ARGS)
	$(BIN)/python -m benchmarks.policies

torture: setup ## kill, corrupt and starve a ledger, at length
	LICET_TORTURE=full $(PYTEST) tests/ledger -m torture $(ARGS)

fuzz: setup ## feed mutated input to every parser
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements/fuzz.txt
	$(BIN)/python -m tests.fuzz $(ARGS)

lock: setup ## remake requirements/cpu.txt from requirements/cpu.in
	$(BIN)/python requirements/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove .venv, builds and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
