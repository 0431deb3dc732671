# Two commands for users: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NBVAL := $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 600 -x
export PYTHONUNBUFFERED := 1
# set-up leaves byte code to whoever imports first; where nobody may write it, every kernel would compile for seconds
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test torture audit bench notebooks clean

setup: $(VENV)/.installed

# without byte code, of which most would never be used: a third of the time
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	$(BIN)/python -m nerveceg_lib run --profile demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# one process a core, the longest files first, else one core waits for the other at the end
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		tests/test_every_network.py tests/test_interruption.py tests/test_pipeline.py tests/test_training.py \
		tests/test_sweep.py tests/test_odd_data.py tests/test_storage.py tests/test_predict.py tests
	# 2 to 6 one after the other, for each reads what the last one wrote; the studies read what 1 wrote alone
	$(NBVAL) notebooks/01*.ipynb
	export OMP_NUM_THREADS=1; $(NBVAL) notebooks/0[7-8]*.ipynb & studies=$$!; \
		$(NBVAL) notebooks/0[2-6]*.ipynb; main=$$?; wait $$studies && exit $$main

# An hour: ends a run at 50 random moments, tries ten thousand strangers' texts, tables, names and images each, and
# fuzzes the two parsers of strangers' bytes by coverage for ten minutes each
torture: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,torture]'
	$(BIN)/python -m tests.torture 50
	NERVECEG_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py
	$(BIN)/python -m tests.fuzz_coverage rle 600
	$(BIN)/python -m tests.fuzz_coverage image 600

# Known vulnerabilities of the pinned packages; needs the network, and fails for what could not be looked up
audit: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,audit]'
	$(BIN)/pip-audit --strict --skip-editable

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	$(BIN)/python -m benchmarks

# Refresh the stored outputs and the README's pictures after a change: look at the diff before you commit it.
notebooks: setup
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --coalesce-streams --inplace notebooks/*.ipynb
	$(BIN)/python docs/images.py

clean:
	rm -rf runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
