# Two commands for users: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NBVAL := $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 600 -x
export PYTHONUNBUFFERED := 1

.PHONY: setup demo test torture bench notebooks clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: setup
	$(BIN)/python -m nerveceg_lib run --profile demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# one process a core, the longest files first, else one core waits for the other at the end
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		tests/test_pipeline.py tests/test_every_network.py tests/test_models.py tests
	# 1 to 6 one after the other, for each reads what the last one wrote; the studies beside each other
	$(NBVAL) notebooks/0[1-6]*.ipynb
	OMP_NUM_THREADS=1 $(NBVAL) -n 2 --dist loadfile notebooks/0[7-8]*.ipynb

# Strangers' text, tables, names and images, ten thousand of each
torture: setup
	NERVECEG_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	$(BIN)/python -m benchmarks

# Refresh the stored outputs after a change: look at the diff before you commit it.
notebooks: setup
	$(BIN)/jupyter nbconvert --to notebook --execute --coalesce-streams --inplace notebooks/*.ipynb

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
