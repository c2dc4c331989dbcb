# make demo   the whole story on this machine: data, old model, constrained cycle, certificate, report.html
# make test   every test; make unit: the quick ones; make lint: style and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
DEMO ?= demo

.PHONY: demo test unit lint clean

$(VENV)/ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/raymds demo --directory $(DEMO) --seed $(SEED)

test: $(VENV)/ready lint
	$(BIN)/pytest tests

unit: $(VENV)/ready
	$(BIN)/pytest tests/unit

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build *.egg-info
