"""Fixtures of the comparisons with mmdetection: its stand-in weights, the model that holds them, its images."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.engine.inference import build_variables
from htc_tf.engine.weights import Unmatched, load_mmdet

REFERENCE = Path(__file__).resolve().parent.parent / "reference"


@pytest.fixture(scope="session")
def mmdet_state():
    """{name: array} of mmdetection's HTC R50-FPN, as its state_dict has them."""
    lines = (REFERENCE / "mmdet_state_dict.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    shapes = {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows}
    return runpy.run_path(str(REFERENCE / "mmdet_weights.py"))["state_dict"](shapes)


@pytest.fixture(scope="session")
def mmdet_model(mmdet_state):
    """HTC R50-FPN as the run file has it, with those weights."""
    experiment, _ = config.load(["gin/htc_r50_fpn_1x_coco.gin"], [])
    model = experiment.build_model()
    with pytest.MonkeyPatch.context() as patch:
        # Nobody looks at these detections: it is enough that every layer runs once.
        patch.setitem(model.rpn.proposals, False, 1)
        patch.setattr(model.postprocess, "keep", 1)
        build_variables(model)
    assert load_mmdet(model, mmdet_state) == Unmatched([], [], [])
    return model


@pytest.fixture(scope="session")
def tiny_batch():
    """Two uint8 RGB images, padded to 128 x 160, and their sizes."""
    reference = np.load(REFERENCE / "forward_tiny.npz")
    images = np.zeros([2, 128, 160, 3], np.uint8)
    for row, (height, width) in enumerate(reference["img_shape"]):
        images[row, :height, :width] = reference[f"image_bgr_{row}"][..., ::-1]
    return tf.constant(images), tf.constant(reference["img_shape"], tf.float32)
