# The front door. Every target sets itself up; nothing needs to be active or installed by hand.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

python := .venv/bin/python
# pyllm-python is a Python extension and has no program of its own to test: tests/ drive it from Python.
testable := --workspace --exclude pyllm-python

export PATH := $(CURDIR)/.venv/bin:$(PATH):$(HOME)/.cargo/bin
export PYO3_PYTHON := $(CURDIR)/$(python)

.PHONY: help setup demo test check bench bench-full wheel soak format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with the editable build; does nothing when nothing changed
	@scripts/setup.sh

demo: setup ## every command on drawn data with the built-in model, a page of it, and what it shows
	@toolkit demo

test: setup ## all tests: the Rust crates, then Python
	cargo test --quiet $(testable)
	$(python) -m pytest -n logical --maxprocesses 4 --dist loadfile

check: setup ## formatting, lints, types, floors, licences, shell scripts
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	scripts/check-crates.sh
	ruff check
	ruff format --check
	mypy
	$(python) -m mypy.stubtest --mypy-config-file pyproject.toml pyllm._core
	lint-imports --no-logo
	shellcheck scripts/*.sh .ci/run

bench: setup ## time the hot paths against what a user would pick instead (see benches/README.md)
	cargo bench --quiet $(testable)
	for bench in benches/bench_*.py; do $(python) "$$bench"; done
	scripts/setup-benches.sh
	$(python) benches/plane/run.py --scale 0.1 --json benches/.data/bench.json

bench-full: setup ## the benches of the data plane with a million rows: about an hour, and 10 GB of disk
	scripts/setup-benches.sh
	$(python) benches/plane/run.py --scale 1 --rounds 3 --json benches/.data/bench-full.json
	$(python) benches/plane/million.py --json benches/.data/million.json

soak: setup ## the long tests: a million wounded files, many random kills, many random examples
	cargo test --quiet --release -p pyllm-examples -p pyllm-shard --test fuzz -- --ignored
	$(python) -m pytest -m soak --hypothesis-profile soak

wheel: setup ## build the wheel and the source distribution into dist/
	maturin sdist --out dist
	maturin build --release --locked --strip --out dist

format: setup ## rewrite the sources in the one format
	cargo fmt --all
	ruff check --fix
	ruff format

clean: ## remove what was built, but not .venv
	cargo clean --quiet
	rm -rf dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
