"""Run lengths in the graph: equal to those of `ops.paste` and of pycocotools, for masks of every kind."""

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from htc_tf.ops import paste, rle
from htc_tf.ops.rle import encode_masks

SIGNATURE = [
    tf.TensorSpec([None, 28, 28]),
    tf.TensorSpec([None, 4]),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.int32),
]


@pytest.fixture(scope="module")
def encode():
    traced = tf.function(encode_masks, input_signature=SIGNATURE, autograph=False)
    return lambda *inputs: [counts.decode() for counts in traced(*inputs).numpy()]


def smooth(rng, count):
    """Returns blobs as mask heads predict them: flat inside, with a slope around."""
    rows, columns = np.meshgrid(np.arange(28), np.arange(28), indexing="ij")
    centers, radii = rng.uniform(4, 24, (2, count, 1, 1)), rng.uniform(2, 16, (count, 1, 1))
    distances = np.hypot(rows - centers[0], columns - centers[1])
    return (1 / (1 + np.exp((distances - radii) * rng.uniform(0.3, 4, (count, 1, 1))))).astype(np.float32)


def draw_boxes(rng, count, height, width):
    """Returns boxes of every size, a few of them empty, or beyond the image."""
    centers = rng.uniform(-0.1, 1.1, (count, 2)) * [height, width]
    sides = np.exp(rng.uniform(np.log(0.3), np.log(1.2 * max(height, width)), (count, 2)))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], 1)
    boxes[::3] = np.clip(boxes[::3], 0, [height, width, height, width])
    boxes[::7] = np.round(boxes[::7])
    boxes[1::11, 2] = boxes[1::11, 0]
    return boxes.astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(97, 61), (480, 640), (1, 300), (300, 1), (1, 1)])
def test_equal_to_the_paste(encode, height, width):
    rng = np.random.default_rng(height)
    masks = np.concatenate([smooth(rng, 60), rng.random((20, 28, 28), np.float32), np.ones((10, 28, 28), np.float32)])
    masks = np.concatenate([masks, np.zeros((3, 28, 28), np.float32), np.full((7, 28, 28), 0.5, np.float32)])
    masks[:5] = np.round(masks[:5] * 4) / 4  # many are exactly 0.5
    boxes = draw_boxes(rng, len(masks), height, width)
    boxes[90] = [0, 0, height, width]
    boxes[85] = [0, 0, height, width]
    wanted = [run["counts"] for run in paste.encode_masks(masks, boxes, height, width)]
    assert encode(masks, boxes, height, width) == wanted


def test_equal_to_pycocotools(encode):
    """Masks pasted pixel by pixel and encoded by COCO's own code."""
    rng = np.random.default_rng(5)
    height, width = 120, 90
    masks, boxes = smooth(rng, 20), draw_boxes(rng, 20, height, width)
    for counts, mask, box in zip(encode(masks, boxes, height, width), masks, boxes, strict=True):
        pixels = np.zeros((height, width), np.uint8, order="F")
        columns, top, left = paste.paste_columns(mask, box, height, width)
        pixels[top : top + columns.shape[1], left : left + columns.shape[0]] = columns.T
        assert counts.encode() == coco_mask.encode(pixels)["counts"]


def test_no_mask(encode):
    assert encode(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), 20, 30) == []


def test_many_columns(encode):
    """More columns than in a chunk, and numbers of many characters."""
    rng = np.random.default_rng(6)
    height, width = 3000, 4000
    masks = smooth(rng, 6)
    boxes = np.array([[0, 0, height, width]] * 5 + [[2990, 3990, 3000, 4000]], np.float32)
    wanted = [run["counts"] for run in paste.encode_masks(masks, boxes, height, width)]
    assert encode(masks, boxes, height, width) == wanted


def draw_case(rng):
    """Returns up to 200 masks of every kind in boxes of every size, thin ones included, and an image size."""
    height, width = np.exp(rng.uniform(0, np.log(400), 2)).astype(int)
    count = int(rng.choice([0, 1, 2, 3, 150, 200], p=[0.02, 0.04, 0.04, 0.04, 0.43, 0.43]))
    masks = smooth(rng, count)
    kinds = rng.integers(0, 8, count)
    masks[kinds == 0] = rng.random((28, 28), np.float32)
    masks[kinds == 1] = np.round(masks[kinds == 1] * 4) / 4  # some cells are exactly 0.5
    masks[kinds == 2] = rng.choice([0.0, 0.5, 1.0])
    boxes = draw_boxes(rng, count, height, width)
    # Less than a pixel or two high or wide: often between two rows or columns of pixel centers.
    thin = rng.integers(0, 4, count)
    for kind, (low, high) in enumerate(((0, 2), (1, 3))):
        rows = thin == kind
        boxes[rows, high] = boxes[rows, low] + rng.uniform(0, 1.5, rows.sum())
    if count and rng.random() < 0.5:
        boxes[-1, 2] = boxes[-1, 0] + 0.3  # most likely the last box of its chunk has no row
    return masks, boxes, height, width


@pytest.mark.parametrize("columns", [rle.CHUNK, 100])
def test_ten_thousand_masks_are_equal_to_the_paste(monkeypatch, columns):
    """With few columns per chunk, every mask is the first, the last or the only one of some chunk."""
    monkeypatch.setattr(rle, "CHUNK", columns)
    encode = tf.function(encode_masks, input_signature=SIGNATURE, autograph=False)
    rng, done = np.random.default_rng(columns), 0
    while done < 5000:
        masks, boxes, height, width = draw_case(rng)
        wanted = [run["counts"].encode() for run in paste.encode_masks(masks, boxes, height, width)]
        assert encode(masks, boxes, height, width).numpy().tolist() == wanted
        done += len(masks)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_numbers_that_are_not_finite(encode, odd):
    """With the weights of a damaged model; the other masks of the image do not change."""
    rng = np.random.default_rng(9)
    masks, boxes = smooth(rng, 20), draw_boxes(rng, 20, 40, 50)
    alone = encode(masks, boxes, 40, 50)
    for index in range(4):
        boxes[index, index] = odd
    boxes[4:6] = odd
    masks[6:8, 5:9] = np.nan
    wanted = [run["counts"] for run in paste.encode_masks(masks, boxes, 40, 50)]
    assert encode(masks, boxes, 40, 50) == wanted and wanted[8:] == alone[8:]
    empty = coco_mask.encode(np.zeros((40, 50), np.uint8, order="F"))["counts"].decode()
    assert wanted[:6] == [empty] * 6
