# Every target sets up .venv by itself from the extras of pyproject.toml.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch = \["\(.*\)"\]$$/\1/p' pyproject.toml)
# Alone: what crypten says it requires (a name of scikit-learn that was withdrawn) cannot be installed.
CRYPTEN := crypten==0.4.1
# Alone too: it requires jax and an older numpy, and its library runs without either.
SPU := spu==0.9.5
NATIVE := $(wildcard runtime/native/*.cpp runtime/native/*.h)
# Workers that benches start, and benches that take hours or 14 GB, are not among those that `make bench` runs.
WORKERS := bench/crypten_stock.py bench/namespaces.py
LONG := bench/relu_budget.py bench/digits_budgets.py bench/fairness.py bench/fairness_adult.py bench/mpc_kill.py bench/resnet20.py bench/spu_networks.py bench/digits_vit.py bench/mnist_vit.py bench/text_classifier.py bench/text_variants.py bench/export_bert.py bench/bert.py bench/forms.py
BENCHES := $(filter-out $(WORKERS) $(LONG),$(shell grep -l __main__ bench/*.py))

.PHONY: help demo test test-all lint check wheel sanitize bench clean

help:
	@echo 'make demo      recognize encrypted handwritten digits, end to end'
	@echo 'make test      the fast tests'
	@echo 'make test-all  all tests'
	@echo 'make check     ruff, mypy, import contracts, the wheel, the fast tests'
	@echo 'make sanitize  the native backend under the address and undefined-behavior sanitizers'
	@echo 'make bench     every benchmark that takes minutes; results in bench/results'
	@echo 'make clean     remove .venv and caches'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml setup.py $(NATIVE) | $(BIN)/python
	$(PIP) --editable '.[tenseal,data]'
	@touch $@

# torch comes first and alone: resolved together with others, another build of it might be chosen.
$(VENV)/test.stamp: pyproject.toml setup.py $(NATIVE) | $(BIN)/python
	$(PIP) '$(TORCH)'
	$(PIP) --editable '.[tenseal,torch,crypten,data,report,test]'
	$(PIP) --no-deps '$(CRYPTEN)' '$(SPU)'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/dev.stamp: pyproject.toml $(VENV)/test.stamp
	$(PIP) --editable '.[tenseal,torch,crypten,data,report,test,dev]'
	@touch $@

demo: $(VENV)/demo.stamp
	@$(BIN)/pi-compiler demo --output demo-out/digits

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q

test-all: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -m 'slow or not slow'

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

wheel: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -m 'slow or not slow' tests/test_packaging.py

check: lint wheel test

sanitize: $(VENV)/dev.stamp
	$(BIN)/python tests/sanitized.py

bench: $(VENV)/test.stamp
	@for b in $(BENCHES); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
