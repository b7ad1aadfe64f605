"""Runs and files to start from, for tests of first weights and fine-tuning: values that tell every variable apart."""

import numpy as np
import pytest

from htc_tf.checkpoint import Checkpoints
from htc_tf.run import Run
from htc_tf.training.first_weights import initialize
from htc_tf.weights import mmdet_arrays

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


@pytest.fixture
def trained(tiny_model, tmp_path):
    """A run of a model of two stages and eight classes, and the model."""
    _, model = tiny_model(*SMALL)
    fill(model.variables)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, model).save(3)
    return run, model


def start(model, tmp_path, source, names=OTHERS, averages=None):
    checkpoints = Checkpoints(Run(tmp_path / "new"), model, averages=averages)
    return initialize(checkpoints, model, averages, source, class_names=names)


def equal_parts(model, other, name):
    pairs = zip(getattr(model, name).weights, getattr(other, name).weights, strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


@pytest.fixture
def detector_file(tiny_model, tmp_path, write):
    """A file of mmdetection with COCO's 80 classes, and its arrays."""
    _, model = tiny_model(*SMALL, *PLAIN, "NUM_CLASSES=80")
    fill(model.variables)
    arrays = mmdet_arrays(model)
    write.pytorch_zip(tmp_path / "detector.pth", {"state_dict": arrays})
    return tmp_path / "detector.pth", model
