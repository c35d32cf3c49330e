PYTHON ?= python3
# Python of `make test-newest`; jax 0.11 needs 3.12 or newer.
NEWEST_PYTHON ?= python3.12
BIN := .venv/bin
NEWEST := .venv-newest
WORKERS ?= 2
# `make test` runs every twentieth case of the long tables, from this offset; by default it depends on the commit.
OFFSET ?=
PIP_INSTALL = python -m pip install --quiet --disable-pip-version-check
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# A minute or two, compiled as for users: steps and whole fits, fused layers, kernels.
OPTIMIZED = $(addprefix tests/training/test_,steps.py trainer.py keras_training.py determinism.py) \
	$(addprefix tests/flaxmodels/,layers/test_keras_masks.py test_fusion.py test_threefry.py) \
	$(addprefix tests/training/keras/test_,first_values.py initializers.py) \
	$(addprefix tests/flaxmodels/kernels/test_,biased_convolution.py pooling.py)
# The code that depends most on the version of JAX: kernels, tracing and exporting, compiled steps, checkpoints.
WITH_NEWEST = tests/flaxmodels/kernels tests/flaxmodels/test_exporting.py tests/flaxmodels/test_intermediates.py \
	$(addprefix tests/training/test_,steps.py trainer.py padding.py checkpoints.py determinism.py)

.PHONY: train test test-optimized test-all test-wheel test-sdist test-newest conformance bench gpu docs lint format clean

train: .venv/all
	$(BIN)/python -m flaxmodels fit simple_cnn digits --epochs 12 --out runs/digits

test: .venv/tools
	$(PYTEST) $(if $(OFFSET),--offset $(OFFSET))

test-optimized: .venv/tools
	$(PYTEST) $(if $(OFFSET),--offset $(OFFSET)) --optimized $(OPTIMIZED)

test-all: .venv/tools
	$(PYTEST) --all

test-wheel: .venv/tools
	.ci/test-wheel

test-sdist: .venv/tools
	.ci/test-sdist

test-newest: $(NEWEST)/tools
	$(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(WITH_NEWEST)

conformance: .venv/tools
	$(PYTEST) -q --all tests/test_recorded.py

bench: .venv/tools
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/throughput.py --short

gpu: .venv/tools
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[bench,cuda]"
	$(BIN)/python benchmarks/gpu.py $(GPU)

# The site is in build/site/; every warning is an error.
docs: .venv/tools
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/tools
	$(BIN)/pre-commit run --all-files

format: .venv/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"flaxmodels needs Python 3.11 or newer, got {v}; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/all: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[all]"
	@touch $@

.venv/tools: .venv/all
	$(BIN)/$(PIP_INSTALL) -c constraints.txt -e ".[test,dev]"
	@touch $@

# Without constraints.txt: the newest version of every package.
$(NEWEST)/tools: pyproject.toml
	$(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/$(PIP_INSTALL) --upgrade --upgrade-strategy eager "jax>=0.11" -e ".[test]"
	@touch $@

clean:
	rm -rf .venv $(NEWEST) .cache build dist
