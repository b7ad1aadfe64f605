"""mmdetection 3.3.0, preprocessing: sizes, the resized image, boxes, semantic labels, the network's input.

The image is resized by OpenCV there, which interpolates bytes in whole numbers and drops the low bits twice; ours is in
float32, rounded once. 13 % of the gray levels differ by one, none by more; `opencv` below has the cause.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data.sample import make_row
from htc_tf.models.htc import HTC, PIXEL_MEAN, PIXEL_STD

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2


@pytest.fixture(scope="module", params=["up", "down", "limit"])
def row(request, reference):
    """The resized sample of the input pipeline, and the reference's."""
    arrays, name = reference("op_preprocess"), request.param
    image, boxes = arrays["image_bgr"][..., ::-1], arrays["boxes"][:, SWAP]
    height, width = arrays[f"resized_{name}"].shape[:2]
    sample = {
        "image": tf.constant(image.copy()),
        "boxes": tf.constant(boxes, tf.float32),
        "classes": tf.zeros([len(boxes)], tf.int32),
        "masks": tf.zeros([len(boxes), 4, 4], tf.uint8),
        "crop_boxes": tf.constant(boxes, tf.float32),
        "semantic": tf.constant(arrays["sem"]),
        "original_size": tf.constant(image.shape[:2]),
        "image_id": tf.constant(1, tf.int64),
        "min_side": min(arrays[f"scale_{name}"]),
        "max_side": max(arrays[f"scale_{name}"]),
    }
    shape = tuple(-(-side // 32) * 32 for side in (height, width))
    found = make_row(sample, shape, max_objects=len(boxes), semantic_stride=8)
    return SimpleNamespace(name=name, arrays=arrays, size=(height, width), shape=shape, found=found)


def test_size_and_boxes(row, compare):
    assert tuple(row.found.sizes.numpy()) == row.size
    expected = row.arrays["boxes"] * np.tile(row.arrays[f"factor_{row.name}"], 2)
    compare("boxes, pixels", row.found.truth.boxes.numpy()[:, SWAP], expected, rtol=1e-6)


def opencv(image, size):
    """OpenCV's bilinear resizing of bytes: 11-bit weights, 4 bits dropped after one axis and 16 after the other."""

    def weights(old, new):
        at = ((np.arange(new) + 0.5) * old / new - 0.5).astype(np.float32)
        low = np.clip(np.floor(at).astype(int), 0, old - 1)
        share = np.where((at < 0) | (low == old - 1), 0, at - low)
        return low, np.minimum(low + 1, old - 1), np.rint((1 - share) * 2048), np.rint(share * 2048)

    (top, bottom, upper, lower), (left, right, first, second) = map(weights, image.shape[:2], size)
    rows = (image[:, left] * first[:, None] + image[:, right] * second[:, None]).astype(np.int64) >> 4
    upper, lower = (weight.astype(np.int64)[:, None, None] for weight in (upper, lower))
    return ((upper * rows[top] >> 16) + (lower * rows[bottom] >> 16) + 2) >> 2


def test_image(row, compare):
    height, width = row.size
    ours = row.found.images[:height, :width].numpy().astype(int)
    theirs = row.arrays[f"resized_{row.name}"][..., ::-1].astype(int)
    compare(f"{row.name}: gray levels", ours, theirs, atol=1)
    compare(f"{row.name}: share of gray levels that differ by one", (ours != theirs).mean(), 0, atol=0.15)
    theirs_again = opencv(row.arrays["image_bgr"][..., ::-1], row.size)
    compare(f"{row.name}: share that differ in OpenCV's arithmetic", (theirs_again != theirs).mean(), 0, atol=3e-3)


def test_semantic_labels(row, compare):
    """Nearest neighbor, at every eighth pixel; the padding has the ignored label."""
    height, width = row.size
    expected = np.full(row.shape, 255)
    expected[:height, :width] = row.arrays[f"sem_{row.name}"]
    compare(f"{row.name}: semantic labels", row.found.truth.semantic, expected[::8, ::8])


def test_input(row, compare):
    """Normalized, and zero in the padding, from mmdetection's own resized image."""
    height, width = row.size
    image = np.zeros([1, *row.shape, 3], np.uint8)
    image[0, :height, :width] = row.arrays[f"resized_{row.name}"][..., ::-1]
    numbers = SimpleNamespace(pixel_mean=PIXEL_MEAN, pixel_std=PIXEL_STD)
    ours = HTC.normalize(numbers, tf.constant(image), tf.constant([[height, width]], tf.float32))
    compare("the network's input", ours.numpy().transpose(0, 3, 1, 2), row.arrays[f"input_{row.name}"], atol=1e-5)
