# The same verbs by hand and in CI.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# On a machine with a GPU: its own Python, which has torch built for CUDA (and Triton); nothing is installed.
GPU_PYTHON  ?= python3
GPU_SECONDS ?= 480

.PHONY: help install demo test quick live fast lint format type check docs bench gpu clean
.DEFAULT_GOAL := test

help: ## these lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: $(STAMP) ## the virtual environment in $(VENV), with all that tests need

# A package's modules are compiled when they are first imported: most never are.
$(STAMP): pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: install ## the main job, for dlrm-rmc1 and p95 <= 100 ms: a prediction at once, then measured on this machine
	$(BIN)/deeprecsys simulate --profile profiles/amd-25-1-avx2/dlrm-rmc1.json --sla-ms 100
	$(BIN)/deeprecsys tune dlrm-rmc1 --sla-ms 100 --rows-scale 0.5 --out runs/demo-$(shell date +%Y%m%d-%H%M%S)

lint: install ## style, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: install ## mypy, strict
	$(BIN)/mypy

test: install ## lint, types and all tests
	@$(MAKE) --no-print-directory -j4 lint type quick live
	$(BIN)/pytest -m alone $(call marked,alone)

# A file's tests share what it starts. Those that start nodes mostly wait: three files run at a time, and what
# they leave of the cores goes to the other tests. One that fails is run again by itself, and must pass.
# Only their own files are collected, which for all takes each process ten seconds; the longest begin.
LONGEST := tests/docs tests/cli/test_documents.py tests/benchmarks
marked = $$(grep -rlE 'pytest\.mark\.($(1))\b' tests --include='test_*.py')
BESIDE := --dist loadfile --no-loadscope-reorder -o cache_dir=.pytest_cache/

quick: install
	nice -n 10 $(BIN)/pytest -m "not live" -n 2 $(BESIDE)quick || $(BIN)/pytest --last-failed -m "not live" -o cache_dir=.pytest_cache/quick

live: install
	$(BIN)/pytest -m "live and not alone" -n 3 $(BESIDE)live $(LONGEST) $(call marked,live) || $(BIN)/pytest --last-failed -m "live and not alone" -o cache_dir=.pytest_cache/live

fast: install ## tests of decisions, simulation, models and the network face: no node, under a minute
	$(BIN)/pytest -m "not live" -n 2 $(addprefix tests/,core bounds workload zoo simulate serve)

check: test

docs: install ## the site, in build/site: links checked, nothing fetched
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/site

bench: install ## every benchmark, one after the other; hours on two cores
	$(BIN)/python -m benchmarks

# The libraries are installed without what they ask for: what of it they import is named here.
compat: install ## models of deepctr-torch and torch-rechub, exported and served, in an environment of its own
	$(PYTHON) -m venv build/compat
	build/compat/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt requests scikit-learn pandas
	build/compat/bin/python -m pip install --quiet --disable-pip-version-check --no-deps deepctr-torch==0.3.0 torch-rechub==0.9.0
	PYTHONPATH=src:. build/compat/bin/python -m benchmarks.files.compat

gpu: ## tests and measurements that need a GPU; run it again until it says that all is measured
	PYTHONPATH=src:. $(GPU_PYTHON) -m pytest -q -m gpu -W default -p no:cacheprovider tests/engine/cuda
	PYTHONPATH=src:. $(GPU_PYTHON) -m benchmarks.gpu.cuda_engine --seconds $(GPU_SECONDS) || [ $$? -eq 3 ]

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
