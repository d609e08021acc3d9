# `make demo` and `make test` are all a fresh machine needs; both create .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-long bench bench-micro gpu-gate tune style clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/pargo demo

# a kernel imported for Triton's interpreter cannot be compiled: the interpreted tests have a process of their own
test: .venv/.installed
	$(BIN)/pytest -n 2 -m "not long"
	TRITON_INTERPRET=1 $(BIN)/pytest -n 2 -m "not long" tests/kernels

test-long: .venv/.installed
	$(BIN)/pytest -n 2 -m long
	TRITON_INTERPRET=1 $(BIN)/pytest -n 2 -m long tests/kernels

bench: .venv/.installed
	$(BIN)/python bench/run.py

bench-micro: .venv/.installed
	$(BIN)/python bench/micro.py

# on a GPU machine the python3 there serves, with its own torch and triton: nothing is installed
# MINUTES=8 fits a rented quarter of an hour; PART="pgp cpp" names parts, RESULTS=folder where their results go
gpu-gate:
	$(PYTHON) bench/gate.py $(if $(MINUTES),--minutes $(MINUTES)) $(if $(PART),--part $(PART)) $(if $(RESULTS),--out $(RESULTS))

tune:
	$(PYTHON) -m pargo_kernels.tune --measure

style: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

clean:
	rm -rf .venv build dist *.egg-info
