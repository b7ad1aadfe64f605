"""Fixtures of the comparisons with mmdetection and Paddle: stand-in weights, models, images and ground truth.

Reference arrays are NCHW, boxes x1, y1, x2, y2.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from htc_tf import config
from htc_tf.structures import GroundTruth, Proposals
from htc_tf.weights import Unmatched, load_mmdet, load_paddle

HERE = Path(__file__).resolve().parent
PARITY = runpy.run_path(str(HERE.parent / "studies" / "parity.py"))
compare, reference = PARITY["compare"], PARITY["reference"]
SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2


@pytest.fixture(scope="session")
def stand_in_weights():
    """stand_in_weights("mmdet") returns {name: array}, the weights that the reference arrays were computed with."""

    def draw(source):
        lines = (HERE.parent / "reference" / f"{source}_state_dict.txt").read_text().splitlines()
        rows = [line.split("\t") for line in lines if not line.startswith("#")]
        shapes = {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows}
        return runpy.run_path(str(HERE.parent / "reference" / f"{source}_weights.py"))["state_dict"](shapes)

    return draw


@pytest.fixture(scope="session")
def mmdet_state(stand_in_weights):
    """{name: array}, the state_dict of mmdetection's HTC R50-FPN."""
    return stand_in_weights("mmdet")


@pytest.fixture(scope="session")
def build():
    """build(*params, overrides) returns (Experiment, HTC R50-FPN, all zero) of the experiment config and overrides."""

    def build(*params, overrides=()):
        experiment, _ = config.load(["gin/htc_r50_fpn_1x_coco.gin", *overrides], params)
        # As in `Experiment.prepare_runtime`: otherwise each crop_and_resize prints a screen of warnings.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        model = experiment.build_model()
        with pytest.MonkeyPatch.context() as patch:
            # The detections are not used: it is enough that every layer runs once.
            patch.setitem(model.rpn.proposals, False, 1)
            patch.setattr(model.postprocess, "keep", 1)
            model.build_variables(blank=True)
        return experiment, model

    return build


@pytest.fixture(scope="session")
def mmdet_model(build, mmdet_state):
    """The experiment config's HTC R50-FPN with `mmdet_state`."""
    _, model = build()
    assert load_mmdet(model, mmdet_state) == Unmatched([], [], [])
    return model


@pytest.fixture(scope="session")
def mmdet_batch(reference):
    """mmdet_batch("tiny") returns images [B, H, W, 3] uint8 RGB, padded to multiples of 32, and their sizes [B, 2]."""

    def load(name):
        arrays = reference(f"forward_{name}")
        sizes = arrays["img_shape"]
        images = np.zeros([len(sizes), *(-(-sizes.max(axis=0) // 32) * 32), 3], np.uint8)
        for row, (height, width) in enumerate(sizes):
            images[row, :height, :width] = arrays[f"image_bgr_{row}"][..., ::-1]
        return tf.constant(images), tf.constant(sizes, tf.float32)

    return load


def stack(rows, dtype):
    """Returns arrays of different lengths, zero-padded to [B, longest, ...], and the valid rows, [B, longest] bool."""
    longest = max(len(row) for row in rows)
    padded = [np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows]
    return tf.constant(np.stack(padded), dtype), tf.constant([np.arange(longest) < len(row) for row in rows])


@pytest.fixture(scope="session")
def mmdet_truth(reference, mmdet_batch):
    """mmdet_truth("tiny") returns GroundTruth, with masks of the whole padded image, and Proposals of train_tiny."""

    def load(name):
        arrays, (images, sizes) = reference(f"train_{name}"), mmdet_batch(name)
        count, height, width = images.shape[:3]
        bitmaps = []
        for row, (rows, columns) in enumerate(sizes.numpy().astype(int)):
            bits = np.unpackbits(arrays[f"gt_masks_{row}"], axis=-1)[..., :columns]
            bitmaps.append(np.pad(255 * bits, [(0, 0), (0, height - rows), (0, width - columns)]))
        boxes, valid = stack([arrays[f"gt_boxes_{row}"][:, SWAP] for row in range(count)], tf.float32)
        truth = GroundTruth(
            boxes=boxes,
            classes=stack([arrays[f"gt_labels_{row}"] for row in range(count)], tf.int32)[0],
            valid=valid,
            masks=stack(bitmaps, tf.uint8)[0],
            crop_boxes=tf.zeros_like(boxes) + tf.constant([0, 0, height, width], tf.float32),
            semantic=tf.constant(arrays["sem_padded"][:, ::8, ::8], tf.int32),
        )
        boxes, valid = stack([arrays[f"proposals_{row}"][:, SWAP] for row in range(count)], tf.float32)
        return truth, Proposals(boxes, tf.ones(boxes.shape[:2]), valid)

    return load


@pytest.fixture(scope="session")
def paddle_built(build, stand_in_weights):
    """The Experiment and the HTC R50-FPN with gin/options/paddle.gin, and Paddle's weights."""
    experiment, model = build(overrides=["gin/options/paddle.gin"])
    assert load_paddle(model, stand_in_weights("paddle")) == Unmatched([], [], [])
    return experiment, model


@pytest.fixture(scope="session")
def paddle_model(paddle_built):
    return paddle_built[1]


@pytest.fixture(scope="session")
def paddle_image(reference):
    """images [1, 128, 160, 3] float32, normalized, and their sizes [1, 2]."""
    image = runpy.run_path(str(HERE.parent / "reference" / "paddle_weights.py"))["image"]()
    sizes = reference("paddle_backbone")["im_shape"]
    return tf.constant(image.transpose(0, 2, 3, 1)), tf.constant(sizes[np.newaxis], tf.float32)


@pytest.fixture(autouse=True)
def as_usual(request):
    """Ends determinism that a training of another test began: XLA then refuses the gradient of max pooling."""
    if "deterministic" not in request.fixturenames:
        disable_op_determinism()


@pytest.fixture(scope="module")
def deterministic():
    """Makes sums deterministic, so that every run measures the same differences."""
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()
