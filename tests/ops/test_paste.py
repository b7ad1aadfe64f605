"""Run lengths from outlines: the pixels of mmdetection's paste, equal bit for bit to the plain implementation."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.ops import paste


def pasted(masks, boxes, height, width):
    """Decodes the result of `encode_masks` to [n, height, width] bool."""
    return np.stack([coco_mask.decode(runs).astype(bool) for runs in paste.encode_masks(masks, boxes, height, width)])


def plain(masks, boxes, height, width):
    """Pastes every pixel of every box: the plain implementation."""
    images = np.zeros((len(masks), height, width), bool)
    for image, mask, box in zip(images, masks, boxes, strict=True):
        columns, top, left = paste.paste_columns(mask, box, height, width)
        image[top : top + columns.shape[1], left : left + columns.shape[0]] = columns.T
    return images


def encoded(images):
    """Encodes whole images by pycocotools."""
    runs = [coco_mask.encode(np.asfortranarray(image, np.uint8)) for image in images]
    return [{"size": list(r["size"]), "counts": r["counts"].decode()} for r in runs]


def random_masks(count, seed=0):
    """Returns blobs with ragged edges: probabilities that fall from the center, plus noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28] - 13.5
    logits = 6 * (1 - np.hypot(y, x) / rng.uniform(8, 20, (count, 1, 1))) + rng.normal(0, 1, (count, 28, 28))
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def random_boxes(count, height, width, seed=1):
    """Returns boxes of all sizes; some extend beyond the image."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, [height, width], (count, 2))
    halves = np.exp(rng.uniform(0, np.log(height), (count, 2))) / 2
    return np.concatenate([centers - halves, centers + halves], axis=1).astype(np.float32)


def test_paste_is_mmdetections(reference):
    arrays = reference("op_mask_paste")
    height, width = arrays["img_shape"].tolist()
    expected = np.unpackbits(arrays["binary"], axis=-1)[..., :width].astype(bool)
    boxes = arrays["boxes"][:, [1, 0, 3, 2]]
    np.testing.assert_array_equal(pasted(arrays["masks"], boxes, height, width), expected)
    np.testing.assert_array_equal(plain(arrays["masks"], boxes, height, width), expected)


def test_paste_by_hand():
    # A 2 x 2 mask, its right half certain, over 4 x 4 pixels: columns at 1/4, 3/4, 5/4, 7/4 of a cell, so the second
    # pixel column sees 1/4 and the third 3/4 of the way from 0 to 1. The border fades to 3/4 of the value.
    mask = np.array([[[0, 1], [0, 1]]], np.float32)
    boxes = np.float32([[1, 1, 5, 5]])
    expected = np.zeros((1, 7, 6), bool)
    expected[0, 1:5, 3:5] = True
    np.testing.assert_array_equal(pasted(mask, boxes, 7, 6), expected)
    assert not pasted(mask * 0.49, boxes, 7, 6).any()


def test_the_plain_implementation_equals_the_tensorflow_one():
    from htc_tf.ops import masks as ops

    masks, boxes = random_masks(40), random_boxes(40, 60, 80)
    expected = np.asarray(ops.paste(masks, boxes, 60, 80))
    assert expected.any(axis=(1, 2)).sum() > 20
    np.testing.assert_array_equal(plain(masks, boxes, 60, 80), expected)


EDGES = np.float32(
    [
        [0, 0, 60, 80],  # the image
        [-5, 3, 70, 9],  # full columns, which join
        [0, 0, 60, 1],
        [9, 70, 99, 99],  # beyond the corner
        [-1000, -1000, 5000, 5000],  # hundreds of pixels a cell
        [3, 3, 3, 8],  # no area, no pixel, nothing of the image
        [8, 8, 3, 3],
        [2.6, 2.6, 2.9, 2.9],
        [100, 100, 130, 130],
        [-9, -9, -2, -2],
    ]
)
KINDS = {
    "ragged": lambda masks: masks,
    "binary": lambda masks: np.round(masks),
    "full": np.ones_like,
    "empty": np.zeros_like,
    "even": lambda masks: np.full_like(masks, 0.5),
    # Rounding decides: steps of a few float32 around 0.5, from cell to cell.
    "close": lambda masks: np.float32(0.5) + (masks - np.float32(0.5)) * np.float32(3e-7),
    "faint": lambda masks: np.float32(0.5) + (masks - np.float32(0.5)) * np.float32(1e-4),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(60, 80), (250, 90)])
def test_outlines_equal_the_plain_implementation(kind, size):
    boxes = np.concatenate([random_boxes(50, *size), EDGES])
    masks = KINDS[kind](random_masks(len(boxes)))
    images = plain(masks, boxes, *size)
    assert images.any() == (kind not in ("empty",))
    runs = paste.encode_masks(masks, boxes, *size)
    assert runs == encoded(images)
    each = [paste.encode_masks(masks[i : i + 1], boxes[i : i + 1], *size)[0] for i in range(len(boxes))]
    assert each == runs  # one by one as all at once


def test_chunks_are_joined(monkeypatch):
    masks, boxes = random_masks(30), random_boxes(30, 60, 80)
    whole = paste.encode_masks(masks, boxes, 60, 80)
    monkeypatch.setattr(paste, "CHUNK", 100)
    assert paste.encode_masks(masks, boxes, 60, 80) == whole
    assert paste.encode_masks(masks[:0], boxes[:0], 60, 80) == []


def test_numbers_that_are_not_finite():
    masks, boxes = random_masks(4), random_boxes(4, 60, 80)
    masks[0, 3:9, 5:20] = np.nan
    boxes[1, 2] = np.nan
    with np.errstate(invalid="ignore"):
        assert paste.encode_masks(masks, boxes, 60, 80) == encoded(plain(masks, boxes, 60, 80))


def test_runs_of_full_columns_join():
    columns = np.ones((3, 5), bool)
    runs = paste.encode_columns(columns, 0, 2, 5, 8)
    plain = np.zeros((5, 8), np.uint8, order="F")
    plain[:, 2:5] = 1
    assert runs["counts"] == coco_mask.encode(plain)["counts"].decode()
