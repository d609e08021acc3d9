# `make demo` and `make test` are all a fresh machine needs; both create .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
OLDEST ?= .venv-oldest
LMMS_EVAL ?= .venv-lmms-eval
RAY ?= .venv-ray

.PHONY: demo test test-long test-real test-oldest test-lmms-eval test-ray mutate bench bench-micro gpu-gate tune style clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/pargo demo

# a kernel imported for Triton's interpreter cannot be compiled: the interpreted tests have a process of their own
test: .venv/.installed
	$(BIN)/pytest -n 2 -m "not long and not real"
	TRITON_INTERPRET=1 $(BIN)/pytest -n 2 -m "not long and not real" tests/kernels

# a real chat model, downloaded once into ~/.cache/pargo
test-real: .venv/.installed
	$(BIN)/pip install --quiet 'gguf>=0.17'
	$(BIN)/pytest -m real

test-long: .venv/.installed
	$(BIN)/pytest -n 2 -m long
	TRITON_INTERPRET=1 $(BIN)/pytest -n 2 -m long tests/kernels

# torch, except for its CPU builds, asks for the triton of its own release, and pip refuses an older one beside it: the oldest is
# put in its place at the end, where pip only warns
$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	grep -v '^triton==' constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --no-deps triton
	touch $@

# what the declared lower bounds promise; needs Python 3.11 (PYTHON=python3.11)
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/pytest -n 2 -m "not long and not real"
	TRITON_INTERPRET=1 $(OLDEST)/bin/pytest -n 2 -m "not long and not real" tests/kernels

# torch is the release that torchvision's was built for, which lmms-eval needs and .venv need not have
$(LMMS_EVAL)/.installed: pyproject.toml constraints-lmms-eval.txt
	$(PYTHON) -m venv $(LMMS_EVAL)
	$(LMMS_EVAL)/bin/pip install --quiet --constraint constraints-lmms-eval.txt torch torchvision
	$(LMMS_EVAL)/bin/pip install --quiet --constraint constraints-lmms-eval.txt lmms-eval --editable '.[dev]'
	touch $@

# the plug-in under the real lmms-eval, and scores beside lmms-eval's own; nothing is downloaded but packages
test-lmms-eval: $(LMMS_EVAL)/.installed
	$(LMMS_EVAL)/bin/pytest tests/mllm/evaluation/lmms_eval

$(RAY)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install --quiet --constraint constraints.txt torch
	$(RAY)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	touch $@

# commands on a local Ray of two workers, beside the same on local processes
test-ray: $(RAY)/.installed
	$(RAY)/bin/pytest tests/mllm/jobs/test_ray.py

# faults put into a copy of the kernels, one at a time: do the tests see them? TARGET=chunks names one part of the kernels
mutate: .venv/.installed
	$(BIN)/python -m tests.mutation $(if $(TARGET),--target $(TARGET))

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
	rm -rf .venv .venv-oldest .venv-lmms-eval .venv-ray build dist *.egg-info
