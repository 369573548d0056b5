# The same verbs by hand and in CI.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# On a machine with a GPU: its own Python, which has torch built for CUDA (and Triton); nothing is installed.
GPU_PYTHON  ?= python3
GPU_SECONDS ?= 480

.PHONY: install demo test lint type check bench gpu clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install ## the main job: tune dlrm-rmc1 for p95 <= 100 ms on this machine
	$(BIN)/deeprecsys tune dlrm-rmc1 --sla-ms 100 --rows-scale 0.5 --out runs/demo-$(shell date +%Y%m%d-%H%M%S)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: install
	$(BIN)/mypy

test: install lint type
	$(BIN)/pytest -m "not alone" -n 2 --dist loadfile
	$(BIN)/pytest -m alone

check: test

bench: install ## every benchmark, one after the other; hours on two cores
	$(BIN)/python -m benchmarks

gpu: ## tests and measurements that need a GPU; run it again until it says that all is measured
	PYTHONPATH=src:. $(GPU_PYTHON) -m pytest -q -m gpu -W default -p no:cacheprovider tests/engine/cuda
	PYTHONPATH=src:. $(GPU_PYTHON) -m benchmarks.gpu.cuda_engine --seconds $(GPU_SECONDS) || [ $$? -eq 3 ]

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
