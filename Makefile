PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Which twentieth of the long tables `make test` runs; by default each commit has its own.
OFFSET ?=
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# A minute or two, compiled as for users: steps and whole fits, layers that are computed together, kernels.
OPTIMIZED = $(addprefix tests/training/test_,steps.py trainer.py keras_training.py determinism.py) \
	$(addprefix tests/flaxmodels/,layers/test_keras_masks.py test_fusion.py) \
	$(addprefix tests/flaxmodels/kernels/test_,biased_convolution.py pooling.py)

.PHONY: train test test-optimized test-all conformance bench gpu lint format clean

train: .venv/core
	$(BIN)/python -m training fit simple_cnn digits --epochs 12 --out runs/digits

test: .venv/tools
	$(PYTEST) $(if $(OFFSET),--offset $(OFFSET))

test-optimized: .venv/tools
	$(PYTEST) $(if $(OFFSET),--offset $(OFFSET)) --optimized $(OPTIMIZED)

test-all: .venv/tools
	$(PYTEST) --all

conformance: .venv/tools
	$(PYTEST) -q --all tests/test_recorded.py

bench: .venv/tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/throughput.py --short

gpu: .venv/tools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench,cuda]"
	$(BIN)/python benchmarks/gpu.py $(GPU)

lint: .venv/tools
	$(BIN)/pre-commit run --all-files

format: .venv/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {v} came; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/tools: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,dev]"
	@touch $@

clean:
	rm -rf .venv .cache build dist
