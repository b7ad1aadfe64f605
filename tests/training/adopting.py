"""Runs and files to start from, for tests of first weights and fine-tuning: values that tell every variable apart."""

import shutil

import numpy as np
import pytest

from htc_tf.checkpoint import Checkpoints
from htc_tf.run import Run
from htc_tf.training.first_weights import initialize
from htc_tf.weights import mmdet_arrays
from tests import checkpoint_writers

SMALL = ["NUM_STAGES=2", "Postprocess.keep=2"]
PLAIN = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]
NAMES = ["disk", "ring", "bar", "box", "star", "moon", "leaf", "drop"]  # of the tiny model's 8 classes
OTHERS = ["fish", " Ring", "DROP"]  # "ring" and "drop" are kept


def categories(names):
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def fill(variables, start=0.0):
    """Gives each variable values of its own, all distinct."""
    for variable in variables:
        size = variable.shape.num_elements()
        variable.assign(np.arange(start, start + size, dtype=np.float32).reshape(variable.shape))
        start += size


@pytest.fixture(scope="session")
def trained_once(tiny_model, tmp_path_factory):
    """A run of a model of two stages and eight classes, and the model, which no test changes."""
    _, model = tiny_model(*SMALL)
    fill(model.variables)
    run = Run(tmp_path_factory.mktemp("trained") / "run")
    run.create("", categories(NAMES))
    Checkpoints(run, model).save(3)
    return run, model


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of the run that the test may change, and the model."""
    run, model = trained_once
    return Run(shutil.copytree(run.folder, tmp_path / "trained")), model


def start(model, tmp_path, source, names=OTHERS, averages=None):
    checkpoints = Checkpoints(Run(tmp_path / "new"), model, averages=averages)
    return initialize(checkpoints, model, averages, source, class_names=names)


def equal_parts(model, other, name):
    pairs = zip(getattr(model, name).weights, getattr(other, name).weights, strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


@pytest.fixture(scope="session")
def detector_file(tiny_model, tmp_path_factory):
    """A file of mmdetection with COCO's 80 classes, and its model; no test changes them."""
    _, model = tiny_model(*SMALL, *PLAIN, "NUM_CLASSES=80")
    fill(model.variables)
    path = tmp_path_factory.mktemp("detector") / "detector.pth"
    checkpoint_writers.pytorch_zip(path, {"state_dict": mmdet_arrays(model)})
    return path, model
