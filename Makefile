# One command each; the same ones run in CI.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-fast proofs lint types check docs format bench soak soak-flows requirements

setup:
	python3 -m venv $(VENV)
	$(BIN)/pip install -q -r requirements-test.txt -r requirements-dev.txt
	$(BIN)/pip install -q --no-deps -e .

demo:
	$(BIN)/tta demo

test:
	$(BIN)/python -m pytest -q -n 4

# Without servers and processes: under a minute on two cores.
test-fast:
	$(BIN)/python -m pytest -q -n 2 -m "not proof and not server"

proofs:
	$(BIN)/python -m pytest -q -n 3 -m proof

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

check: lint types test proofs

docs:
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench:
	$(BIN)/python tests/benchmarks/bench.py

soak:
	$(BIN)/python -m tests.benchmarks.soak_ledger

soak-flows:
	$(BIN)/python tests/benchmarks/soak_orchestrations.py --minutes 30

requirements:
	$(BIN)/pip install -q pip-tools
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header -o requirements.txt pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --extra test -c requirements.txt -o requirements-test.txt pyproject.toml
	$(BIN)/python .ci/pin_extras.py requirements.txt requirements-test.txt
	$(BIN)/pip-compile -q --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --allow-unsafe -c requirements-test.txt -o requirements-dev.txt requirements-dev.in
