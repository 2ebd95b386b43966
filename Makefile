# The user's targets. `make help` lists them; README.md explains them.
# Every recipe runs in the environment that `make setup` builds in .venv from the pins in constraints.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ROOMS := base records model launch ingest serve train

DATA ?=
RECORDS ?= records-out
CONFIG ?= paper-tiny
RUN ?= runs/$(basename $(notdir $(CONFIG)))
CHECKPOINT ?= $(RUN)
IMAGES ?=
IMAGE ?=
OUT ?=
DEVICES ?= 1
DEVICE_TARGET ?= auto
NODES ?= 1
NODE_RANK ?= 0
MASTER ?=
SET ?=
ARGS ?=
MINUTES ?= 10
PART ?=
A ?=
B ?=

OWN_RUN = $(if $(filter file,$(origin RUN)),runs/own,$(RUN))
LAUNCH = --device-target $(DEVICE_TARGET) --devices $(DEVICES) \
  $(if $(MASTER),--nodes $(NODES) --node-rank $(NODE_RANK) --rendezvous $(MASTER))

export CONVNEXT_MAKE := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo own records show verify doctor train eval predict infer test test-all test-faults test-parity test-cluster test-ascend bench bench-compare check clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: DATA RECORDS CONFIG RUN DEVICES DEVICE_TARGET CHECKPOINT IMAGES IMAGE OUT SET ARGS MINUTES NODES NODE_RANK MASTER"

setup: $(READY)  ## Make the environment in .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "Error: $(PYTHON) is not Python 3.11 or 3.12; pass PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@mkdir -p .types/convnext_imagenet
	@for room in $(ROOMS); do ln -sfn ../../$$room .types/convnext_imagenet/$$room; done
	@touch $@

demo: $(READY)  ## Digits: raw tree -> records -> training -> accuracy -> Parquet, in minutes
	@BIN=$(BIN) OUT=$(or $(OUT),demo-out) bash demo/run.sh

own: $(READY)  ## DATA=dir [MINUTES=10]: your images in any form -> records -> suggested configuration -> trained -> report
	@test -n "$(DATA)" || { echo "Error: DATA is not set: make own DATA=/path/to/images" >&2; exit 2; }
	$(BIN)/convnext-ingest build "$(DATA)" --out "$(RECORDS)" $(ARGS)
	$(BIN)/convnext-train run auto --records "$(RECORDS)" --out "$(OWN_RUN)" --minutes "$(MINUTES)" $(LAUNCH)
	$(BIN)/convnext-serve eval "$(OWN_RUN)" --records "$(RECORDS)" --report "$(or $(OUT),$(OWN_RUN)/report)" $(LAUNCH)

records: $(READY)  ## DATA=/path/to/imagenet: verify and write RECORDS
	@test -n "$(DATA)" || { echo "Error: DATA is not set: make records DATA=/path/to/imagenet" \
	  "(no ImageNet at hand? make demo)" >&2; exit 2; }
	$(BIN)/convnext-ingest build "$(DATA)" --out "$(RECORDS)" $(ARGS)

show: $(READY)  ## What RECORDS holds
	$(BIN)/convnext-records show "$(RECORDS)"

verify: $(READY)  ## Read all of RECORDS again and compare
	$(BIN)/convnext-records verify "$(RECORDS)"

doctor: $(READY)  ## Examine this machine for DEVICES: versions, memory, records, one step, one all-reduce
	$(BIN)/convnext-train doctor --records "$(RECORDS)" --out "$(RUN)" $(LAUNCH) $(ARGS)

train: $(READY)  ## Train CONFIG on RECORDS into RUN on DEVICES; an existing RUN resumes
	@$(BIN)/convnext-train doctor --quick --records "$(RECORDS)" --out "$(RUN)" $(LAUNCH)
	$(BIN)/convnext-train run "$(CONFIG)" --records "$(RECORDS)" --out "$(RUN)" $(LAUNCH) \
	  $(foreach pair,$(SET),--set '$(pair)') $(ARGS)

eval: $(READY)  ## Exact accuracy of CHECKPOINT (default: the best of RUN) on RECORDS
	$(BIN)/convnext-serve eval "$(CHECKPOINT)" --records "$(RECORDS)" $(LAUNCH) $(ARGS)

predict: $(READY)  ## IMAGES=dir OUT=dir: score a folder into Parquet
	@test -n "$(IMAGES)" || { echo "Error: IMAGES is not set: make predict IMAGES=dir OUT=dir" >&2; exit 2; }
	$(BIN)/convnext-serve predict "$(CHECKPOINT)" "$(IMAGES)" --out "$(or $(OUT),predictions-out)" \
	  $(LAUNCH) $(ARGS)

infer: $(READY)  ## IMAGE=file [OUT=picture.jpg]: name one image, draw the label on it
	@test -n "$(IMAGE)" || { echo "Error: IMAGE is not set: make infer IMAGE=file [OUT=picture.jpg]" >&2; exit 2; }
	$(BIN)/convnext-serve infer "$(CHECKPOINT)" "$(IMAGE)" --out "$(or $(OUT),infer-out.jpg)" \
	  --device-target $(DEVICE_TARGET) $(ARGS)

test: $(READY)  ## The default test suite, minutes
	$(BIN)/pytest $(ARGS)

test-all: $(READY)  ## Also what takes over five seconds a test: what CI and a release want
	$(BIN)/pytest -m "not faults and not parity and not cluster" $(ARGS)

test-faults: $(READY)  ## Hundreds of kills, full disks, damaged files, dead and hung ranks; about forty minutes
	$(BIN)/pytest tests/faults tests/train/run/test_run.py tests/train/run/test_initial_weights.py tests/train/test_ranks_faults.py -m "faults or not faults" $(ARGS)

test-parity: $(READY)  ## Imported weights beside timm and transformers (extra parity, or CONVNEXT_PARITY_PYTHON=python)
	$(BIN)/pytest tests/parity tests/model/exchange/test_source_torch.py -m "parity or not parity" $(ARGS)

test-cluster: $(READY)  ## Two Ray nodes on this machine, one of them killed or foreign; about ten minutes
	@$(BIN)/python -c 'import ray' 2>/dev/null || { echo "Error: Ray is not installed:" \
	  "$(BIN)/pip install -c constraints.txt -e '.[ray]'" >&2; exit 2; }
	$(BIN)/pytest tests/cluster -m cluster $(ARGS)

test-ascend: $(READY)  ## What Ascend would run, without a device: kernels, budgets, whole commands; four minutes
	$(BIN)/pytest tests/ascend -m ascend $(ARGS)

bench: $(READY)  ## [PART=model|ingest|audit|audit_scale|load|read|score|train|randaugment|shuffle|cluster]: interleaved benchmarks, written to bench-out/PART.json
	$(BIN)/python bench $(PART)

bench-compare: $(READY)  ## A=commit B=commit (or WORK): everyday commands of both in turns, and what got slower
	@test -n "$(A)" -a -n "$(B)" || { echo "Error: A or B is not set: make bench-compare A=main B=WORK" >&2; exit 2; }
	$(BIN)/python bench/compare.py "$(A)" "$(B)" $(ARGS)

check: $(READY)  ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p convnext_imagenet

clean:  ## Remove what demo, tests and builds left (not .venv, records or runs)
	rm -rf demo-out build dist *.egg-info .cache .pytest_cache .ruff_cache .mypy_cache rank_0 infer-out.jpg
