# The tasks of a clean clone. Every target sets up the environment that it needs; `make` alone lists the targets.
# Requirements: make, a POSIX shell, and Python 3.10 or 3.11, which get TensorFlow 2.15, or 3.12 or 3.13, which get 2.21.

## EXTRA    which TensorFlow: cpu or gpu
EXTRA ?= cpu
## VENV     the virtual environment; each EXTRA needs its own
VENV ?= .venv
## PYTHON   interpreters that may create it; the first suitable one does
PYTHON ?= python3.11 python3.10 python3.12 python3.13 python3
## OTHER_PYTHON   interpreters that may create the second environment, of `make lanes`, with the other TensorFlow
OTHER_PYTHON ?= python3.12 python3.13 python3.11 python3.10 python3
## DEMO     the folder of the data set, records and run of `make demo`
DEMO ?= runs/demo
## SAMPLE   a small data set in COCO's layout, for `make coco_sample`, `make overfit` and `make photos`
SAMPLE ?= ../shared/data/coco_sample
## TAG      yes: `make release` tags the commit
TAG ?=
## ARGS     further arguments: make test ARGS="tests/ops -x", make constraints ARGS=--upgrade
ARGS ?=

export TF_CPP_MIN_LOG_LEVEL ?= 2

PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
STAMP := $(VENV)/.installed-$(EXTRA)

ifneq ($(filter-out cpu gpu,$(EXTRA))$(words $(EXTRA)),1)
$(error EXTRA must be cpu or gpu, not '$(EXTRA)')
endif

.PHONY: help env test long slow lanes other_python lint check fuzz docs links release release_check field parity kills overfit ablation fine_tuning pretraining photos zoo benchmarks gpu_kit demo coco_sample constraints clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "variables (make TARGET NAME=value):"
	@sed -n 's/^## /  /p' $(firstword $(MAKEFILE_LIST))

# ---- the environment --------------------------------------------------------------------------------------

env: $(STAMP) ## create the virtual environment and install htc_tf with the versions of constraints.txt

# Prints the first of the interpreters $(1) that satisfies the condition $(2) on its version v and can make a virtual
# environment. pyenv's python3.12 fails unless a version that has it is selected, so each such version is tried.
FIT = import sys, ensurepip, venv; v = sys.version_info; print(sys.executable); sys.exit(not ($(2)))
FIND = for python in $(1); do for version in "$$PYENV_VERSION" $$(pyenv whence $$python 2>/dev/null); do \
    found=$$(PYENV_VERSION=$$version $$python -c '$(FIT)' 2>/dev/null) && echo "$$found" && break 2; done; done
BRING := uv python install 3.12; sudo apt install python3-venv; brew install python@3.12 (a Mac)

# An environment that already works is kept.
$(UV):
	@$(PY) -m pip --version >/dev/null 2>&1 && exit; \
	for name in $(PYTHON); do \
	    python=$$($(call FIND,$$name,(3, 10) <= v < (3, 14))) && [ "$$python" ] || continue; \
	    refusal=$$($$python -m htc_tf.platforms --extra $(EXTRA) --check 2>&1) || continue; \
	    echo "$$python -m venv $(VENV)" && exec "$$python" -m venv $(VENV); \
	done; \
	[ -z "$$refusal" ] || { echo "$$refusal" >&2; exit 2; }; \
	echo "error: none of '$(PYTHON)' is a Python 3.10 to 3.13 with its venv module: install one ($(BRING))," \
	    "or name it: make env PYTHON=/path/to/python3.12" >&2; exit 2
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

# Where Python may not write bytecode later, it is compiled now: importing TensorFlow takes 10 CPU-seconds without
# bytecode and 4 with it.
EXTRAS := $(EXTRA),prepare,train,fast,video,dask,onnx,completion,wandb,mlflow,docs,test
$(STAMP): setup.cfg pyproject.toml constraints.txt | $(UV)
	@$(PY) -m htc_tf.platforms --extra $(EXTRA) --check
	$(UV) pip install --python $(PY) -c constraints.txt --build-constraints constraints.txt \
	    $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) -e ".[$(EXTRAS)]"
	@$(PY) -m htc_tf.platforms --extra $(EXTRA)
	@touch $@

# Keeps the present versions and adds missing ones; ARGS=--upgrade takes the newest that setup.cfg allows.
COMPILE := uv pip compile setup.cfg - --extra cpu --extra gpu --extra prepare --extra train --extra fast --extra video --extra dask --extra onnx --extra completion --extra wandb --extra mlflow --extra docs --extra test --universal --python-version 3.10
constraints: $(UV) ## update constraints.txt from setup.cfg
	echo uv | $(VENV)/bin/$(COMPILE) --no-annotate --output-file constraints.txt --quiet \
	    --custom-compile-command "make constraints, which is: echo uv | $(COMPILE)" $(ARGS)

clean: ## remove the environments and the caches (runs/ stays)
	for folder in $(VENV) $(VENV)-3.11 $(VENV)-3.12; do test ! -f $$folder/pyvenv.cfg || rm -rf $$folder; done
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find htc_tf pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- checks -----------------------------------------------------------------------------------------------

# The tests of a file share their fixtures, so they run in one process. The files start in the order of tests/conftest.py.
PYTEST := $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Dozens of processes start in less time with bytecode, which a container may have turned off.
test long slow: export PYTHONDONTWRITEBYTECODE :=
test: env ## run the tests, but for the longest 3 % and the slow ones, in one process per core, at most four (eight minutes)
	$(PYTEST) -m "not slow and not long" $(ARGS)

long: env ## run the longest 3 % of the tests, whole trainings and commands, before a pull request (nine minutes)
	$(PYTEST) -m long $(ARGS)

slow: env ## run the further cases and studies that are in neither: every family's sizes, XLA, trajectories, wheels (an hour)
	$(PYTEST) -m slow $(ARGS)

# A second environment: 3.12 or 3.13 beside 3.10 or 3.11, and the reverse.
OTHERS = $(shell $(PY) -c 'import sys; print("3.12 3.13" if sys.version_info < (3, 12) else "3.11 3.10")')
OTHER_VENV = $(VENV)-$(firstword $(OTHERS))
# What depends on the versions of TensorFlow, Keras, NumPy and Python: operations, parity with mmdetection and Paddle,
# training steps and resumed trainings, checkpoints, exports, the client; and files that cross the environments.
LANES_TESTS := tests/lanes tests/ops tests/models/test_parity_*.py tests/training/test_step.py \
    tests/training/test_trainer.py tests/training/test_profile.py tests/training/test_run_evaluations.py \
    tests/training/test_optim.py tests/test_checkpoint.py tests/test_export.py tests/inference/test_exported.py \
    tests/serving/test_client.py tests/serving/test_bounded_answers.py tests/serving/test_responses.py \
    tests/test_environment.py
lanes: env ## run the tests that depend on TensorFlow's version with the other version too, in a second environment
	@python=$$($(MAKE) --silent --no-print-directory other_python) || exit 2; \
	    $(MAKE) --no-print-directory env VENV=$(OTHER_VENV) PYTHON="$$python"
	HTC_TF_OTHER_PYTHON=$(abspath $(PY)) $(OTHER_VENV)/bin/python -m pytest \
	    --numprocesses auto --maxprocesses 4 --dist loadfile $(LANES_TESTS) $(ARGS)

other_python: env ## print the interpreter of the second environment
	@python=$$($(call FIND,$(OTHER_VENV)/bin/python $(OTHER_PYTHON),"%d.%d" % v[:2] in "$(OTHERS)".split())) && \
	    [ "$$python" ] && $$python -m htc_tf.platforms --extra $(EXTRA) --check && echo "$$python" || { \
	    echo "error: 'make lanes' needs a Python $(firstword $(OTHERS)) or $(lastword $(OTHERS)) beside this one," \
	        "and '$(OTHER_PYTHON)' has none: uv python install $(firstword $(OTHERS))," \
	        "or make lanes OTHER_PYTHON=/path/to/python$(firstword $(OTHERS))" >&2; exit 2; }

lint: env ## check style, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# What finds most mistakes in a short time: the rules of the tree, the pages, configurations, and the arithmetic.
CHECK_TESTS := tests/test_imports.py tests/test_tree.py tests/test_docs.py tests/test_docs_commands.py \
    tests/test_project_pages.py tests/test_command_line.py tests/test_main.py tests/test_config.py \
    tests/test_gin_files.py tests/test_errors.py tests/test_formats.py tests/test_run.py tests/test_platforms.py \
    tests/ops/test_boxes.py tests/ops/test_matching.py tests/ops/test_masks.py tests/models/test_targets.py \
    tests/pipelines/test_objects.py tests/pipelines/test_to_coco.py
check: lint ## lint and the tests that find most in a short time: what to run before each commit (three minutes)
	$(PYTEST) $(CHECK_TESTS) $(ARGS)

fuzz: env ## feed random damage to every reader of foreign files, a minute each; faults stay in tests/corpus
	$(PY) -m tests.fuzz $(ARGS)

# MkDocs' banners are about its successors.
docs: export NO_MKDOCS_2_WARNING := 1
docs: env ## build the site of docs/ in site/, with every link and anchor checked
	$(PY) -m mkdocs build --quiet $(ARGS)

links: export HTC_TF_ASK_LINKS := true
links: docs ## ask every host that a page links to whether the page is there (needs a network)

field: env ## prepare every kind of input that docs/data.md lists (half a minute)
	$(PY) -m pytest -p no:xdist tests/pipelines/test_field_cases.py $(ARGS)

# The folder of the references' complete arrays (mmdet/, paddle/); without it, tests/reference has thinned ones.
REFERENCE := $(wildcard ../shared/reference)
parity: env ## compare all numbers with mmdetection's and Paddle's, and write docs/parity.md (half an hour)
	$(PY) -m tests.studies.parity --output docs/parity.md $(if $(REFERENCE),--reference $(REFERENCE))

kills: env ## kill a training at random moments, twenty times, and compare it with one never killed (a quarter of an hour)
	$(PY) -m tests.studies.kills --kills 10 --steps 60 --gin_param NUM_STAGES=1

overfit: have_sample env ## overfit eight COCO images (SAMPLE) with each row of the ablation (half an hour)
	$(PY) -m tests.studies.overfit --sample $(SAMPLE)

ablation: env ## train the paper's ablation on drawn scenes, four rows with five seeds (five hours)
	$(PY) -m tests.studies.ablation

fine_tuning: env ## fine-tune on 40 drawn scenes of new classes, from pretrained weights and from nothing (three quarters of an hour)
	$(PY) -m tests.studies.fine_tuning

pretraining: env ## train the demo's network on letters and on shapes, from each other and from nothing (two hours)
	$(PY) -m tests.studies.pretraining

photos: have_sample env ## train on people in the photographs of a small part of COCO (SAMPLE): AP by number of images
	$(PY) -m tests.studies.photos --sample $(SAMPLE)

ZOO := runs/zoo
zoo: env ## train every configuration for ten steps, measure the cost of each part, and write docs/zoo.md (four hours)
	$(PY) -m tests.studies.zoo --workdir $(ZOO)
	$(PY) -m tests.studies.costs --workdir $(ZOO)

benchmarks: env ## run all benchmarks, and write docs/benchmarks.md and docs/growth.png (half an hour)
	$(PY) -m tests.benchmarks $(ARGS)

GPU_KIT := runs/gpu_kit
gpu_kit: env ## write a kit that runs the network on a machine with a GPU and no TensorFlow: bash run.sh OUT there
	$(PY) -m tests.benchmarks.gpu --output $(GPU_KIT)

# ---- releases ---------------------------------------------------------------------------------------------

# Both TensorFlows are tried: the environment's, and that of `make lanes`.
release: env ## build sdist and wheel, check them, and try the wheel in both lanes, demo included; TAG=yes tags it (an hour)
	@other=$$(make --silent --no-print-directory other_python VENV=$(VENV)) || exit 2; \
	    $(PY) -m tests.release --python $(PY) --python "$$other" $(if $(filter yes,$(TAG)),--tag) $(ARGS)

release_check: env ## build and check a release, and try the wheel in an empty folder with a tiny training (two minutes)
	$(PY) -m tests.release --python $(PY) --small $(ARGS)

# ---- demos ------------------------------------------------------------------------------------------------

demo: env ## on drawn scenes: data set, records, training, evaluation, drawings, export
	# Draw 1200 scenes for training and 200 for validation, in COCO's layout.
	$(PY) -m pipelines.shapes --output $(DEMO)/shapes --train 1200 --val 200 --seed 0
	# Convert them to TFRecords with Apache Beam.
	$(PY) -m pipelines.coco_to_tfrecord --annotations $(DEMO)/shapes/annotations/instances_train2017.json \
	    --images $(DEMO)/shapes/train2017 --stuff $(DEMO)/shapes/stuffthingmaps/train2017 \
	    --output $(DEMO)/records/train
	$(PY) -m pipelines.coco_to_tfrecord --annotations $(DEMO)/shapes/annotations/instances_val2017.json \
	    --images $(DEMO)/shapes/val2017 --stuff $(DEMO)/shapes/stuffthingmaps/val2017 \
	    --output $(DEMO)/records/val
	# Inspect the records: counts, and a contact sheet with boxes and masks.
	$(PY) -m pipelines.inspect_records --records $(DEMO)/records/train --output $(DEMO)/contact_sheet.png
	# Train, from weights that have learned to find drawn letters. Follow it with: tensorboard --logdir $(DEMO)
	$(PY) -m htc_tf.train --gin_file gin/htc_shapes.gin --gin_file gin/options/from_letters.gin \
	    --init_from gin/weights/letters.safetensors --workdir $(DEMO) \
	    --train_records $(DEMO)/records/train --val_records $(DEMO)/records/val
	# Evaluate box and mask AP on the validation scenes, with charts of the errors.
	$(PY) -m htc_tf.eval --checkpoint $(DEMO) --records $(DEMO)/records/val \
	    --annotations $(DEMO)/shapes/annotations/instances_val2017.json --output $(DEMO)/metrics.json \
	    --report $(DEMO)/report
	# Draw the detections in a dozen of them.
	$(PY) -m htc_tf.predict --checkpoint $(DEMO) --input '$(DEMO)/shapes/val2017/*0[0-3][369].jpg' \
	    --output $(DEMO)/pictures
	# Export a SavedModel.
	$(PY) -m htc_tf.export --checkpoint $(DEMO) --output $(DEMO)/export
	# Ask the SavedModel, in a process of its own.
	$(PY) -m htc_tf.client --export $(DEMO)/export --input $(DEMO)/shapes/val2017/000001000003.jpg
	@echo "Look at $(DEMO)/pictures, $(DEMO)/report/report.md, or tensorboard --logdir $(DEMO);" \
	    "then train on your images: docs/training.md"

COCO_SAMPLE := runs/coco_sample
coco_sample: have_sample env ## train 300 steps on a small part of COCO (SAMPLE), and draw detections
	# Convert the images to TFRecords.
	$(PY) -m pipelines.coco_to_tfrecord --annotations $(SAMPLE)/annotations/instances_train2017.json \
	    --images $(SAMPLE)/train2017 --output $(COCO_SAMPLE)/records/train
	$(PY) -m pipelines.coco_to_tfrecord --annotations $(SAMPLE)/annotations/instances_val2017.json \
	    --images $(SAMPLE)/val2017 --output $(COCO_SAMPLE)/records/val
	# Train the paper's network from scratch on small images, long enough to see the losses fall.
	$(PY) -m htc_tf.train --gin_file gin/htc_r50_fpn_1x_coco.gin --gin_file gin/options/from_scratch.gin \
	    --gin_file gin/options/small_images.gin --gin_file gin/options/no_semantic.gin --workdir $(COCO_SAMPLE) \
	    --train_records $(COCO_SAMPLE)/records/train --val_records $(COCO_SAMPLE)/records/val
	# Draw its detections, which have low scores after so short a training. The images' licenses forbid altered
	# copies: do not publish these drawings.
	$(PY) -m htc_tf.predict --checkpoint $(COCO_SAMPLE) --input '$(SAMPLE)/val2017/0000000[0-4]*.jpg' \
	    --output $(COCO_SAMPLE)/pictures --threshold 0.08

.PHONY: have_sample
have_sample:
	@test -f $(SAMPLE)/annotations/instances_train2017.json || { \
	    echo "error: no $(SAMPLE)/annotations/instances_train2017.json: give a folder in COCO's layout" \
	        "(annotations/, train2017/, val2017/): make coco_sample SAMPLE=/path/to/it" >&2; exit 2; }
