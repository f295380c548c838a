# Two commands do everything on a machine with Python 3.11+:  make demo  and  make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := runtime/build_native.py $(wildcard runtime/native/*.[ch])
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test versions lint cpp clean

demo: $(VENV)/.lean
	$(BIN)/vprm score

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

# Tests that decide numbers under the oldest and the newest supported Pillow and transformers; needs a package index.
versions: $(VENV)/.dev
	VPRM_VERSION_TESTS=1 $(BIN)/python -m pytest -n 0 tests/test_versions.py

# libvprm, the C and C++ library (docs/embedding.md); Debian: cmake ninja-build g++ nlohmann-json3-dev. Its tests are among
# those of `make test` and need doctest-dev; fuzzing needs clang-19 libclang-rt-19-dev. They skip, naming what is missing.
cpp:
	cmake -S runtime/cpp -B build/cpp/library -G Ninja
	ninja -C build/cpp/library

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.lean: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --editable '.[cpu,export]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.lean

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
