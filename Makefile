# make demo   the whole story on this machine: data, old model, constrained cycle, certificate, report.html
#             with DATA=s3 all of it in a bucket of an S3 server of this machine
# make real   the same on real photographs: Fashion-MNIST, from Debian's package dataset-fashion-mnist
# make test   every test but those of make cluster-test: jobs on several nodes, a search that is killed
#             make unit: the quick ones; make lint: style, types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
DEMO ?= demo
REAL ?= real
DATA ?= local

.PHONY: demo real test unit cluster-test lint clean

$(VENV)/ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/ready
ifeq ($(DATA),s3)
	$(BIN)/python cluster/local_s3.py $(DEMO)-s3 driving $(BIN)/raymds demo --directory s3://driving/$(DEMO) --seed $(SEED)
else
	$(BIN)/raymds demo --directory $(DEMO) --seed $(SEED)
endif

real: $(VENV)/ready
	$(BIN)/python benchmarks/datasets.py $(REAL) fashion/shirt
	$(BIN)/raymds finetune $(REAL)/fashion/shirt.yaml run.uri=$(REAL)/run run.workers=2 run.seed=$(SEED)

test: $(VENV)/ready lint
	$(BIN)/pytest tests -n 2 --dist loadfile --ignore tests/cluster

unit: $(VENV)/ready
	$(BIN)/pytest tests/unit -n 2

cluster-test: $(VENV)/ready
	$(BIN)/pytest tests/cluster

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo real build *.egg-info
