"""Results at original resolution: boxes scaled back, masks pasted as mmdetection does and encoded as COCO does."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.engine import results


class Detections(NamedTuple):
    """The fields of structures.Detections, without TensorFlow."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    valid: np.ndarray
    masks: np.ndarray | None = None


def pasted(mask, box, height, width):
    columns, top, left = results.paste_columns(mask, box, height, width)
    image = np.zeros((height, width), bool)
    image[top : top + columns.shape[1], left : left + columns.shape[0]] = columns.T
    return image


def random_masks(count, seed=0):
    """Blobs with ragged edges: probabilities that fall from the centre, plus noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28] - 13.5
    logits = 6 * (1 - np.hypot(y, x) / rng.uniform(8, 20, (count, 1, 1))) + rng.normal(0, 1, (count, 28, 28))
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def random_boxes(count, height, width, seed=1):
    """Of all sizes; some reach beyond the image."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, [height, width], (count, 2))
    halves = np.exp(rng.uniform(0, np.log(height), (count, 2))) / 2
    return np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float32)


def test_paste_is_mmdetections(reference):
    arrays = reference("op_mask_paste")
    height, width = arrays["img_shape"].tolist()
    expected = np.unpackbits(arrays["binary"], axis=-1)[..., :width].astype(bool)
    boxes = arrays["boxes"][:, [1, 0, 3, 2]]
    for index, (mask, box) in enumerate(zip(arrays["masks"], boxes, strict=True)):
        np.testing.assert_array_equal(pasted(mask, box, height, width), expected[index], err_msg=f"mask {index}")


def test_paste_by_hand():
    # A 2 x 2 mask, its right half certain, over 4 x 4 pixels: columns at 1/4, 3/4, 5/4, 7/4 of a cell, so the second
    # pixel column sees 1/4 and the third 3/4 of the way from 0 to 1. The border fades to 3/4 of the value.
    mask = np.array([[0, 1], [0, 1]], np.float32)
    image = pasted(mask, np.float32([1, 1, 5, 5]), 7, 6)
    expected = np.zeros((7, 6), bool)
    expected[1:5, 3:5] = True
    np.testing.assert_array_equal(image, expected)
    assert not pasted(mask * 0.49, np.float32([1, 1, 5, 5]), 7, 6).any()


@pytest.mark.parametrize("box", [[3, 3, 3, 8], [8, 8, 3, 3], [20, 20, 30, 30], [-9, -9, -2, -2], [2.6, 2.6, 2.9, 2.9]])
def test_boxes_without_a_pixel_give_empty_masks(box):
    runs = results.encode_pasted(np.ones((28, 28), np.float32), np.float32(box), 10, 12)
    assert coco_mask.decode(runs).shape == (10, 12)
    assert coco_mask.area(runs) == 0


def test_paste_is_that_of_ops():
    from htc_tf.ops import masks as ops

    masks, boxes = random_masks(40), random_boxes(40, 60, 80)
    expected = np.asarray(ops.paste(masks, boxes, 60, 80))
    ours = np.stack([pasted(mask, box, 60, 80) for mask, box in zip(masks, boxes, strict=True)])
    assert ours.any(axis=(1, 2)).sum() > 20
    np.testing.assert_array_equal(ours, expected.astype(bool))


def test_runs_are_those_of_pycocotools():
    height, width = 60, 80
    boxes = np.concatenate(
        [random_boxes(60, height, width), np.float32([[0, 0, 60, 80], [-5, 3, 70, 9], [0, 0, 60, 1], [9, 70, 99, 99]])]
    )
    masks = np.concatenate([random_masks(60), np.ones((4, 28, 28), np.float32)])
    for mask, box in zip(masks, boxes, strict=True):
        plain = coco_mask.encode(np.asfortranarray(pasted(mask, box, height, width), np.uint8))
        runs = results.encode_pasted(mask, box, height, width)
        assert runs == {"size": [height, width], "counts": plain["counts"].decode()}


def test_runs_of_full_columns_join():
    columns = np.ones((3, 5), bool)
    runs = results.encode_columns(columns, 0, 2, 5, 8)
    plain = np.zeros((5, 8), np.uint8, order="F")
    plain[:, 2:5] = 1
    assert runs["counts"] == coco_mask.encode(plain)["counts"].decode()


@pytest.fixture
def detections():
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, 0] = [10, 20, 50, 100]
    boxes[0, 2] = [0, 0, 99.99, 200.01]
    scores = np.float32([[0.75, 0.5, 0.25], [0.5, 0, 0]])
    classes = np.int32([[1, 0, 0], [0, 0, 0]])
    valid = np.array([[True, False, True], [False, False, False]])
    return Detections(boxes, scores, classes, valid, np.ones((2, 3, 28, 28), np.float32))


def test_image_results_at_original_size(detections):
    first, second = results.image_results(detections, np.float32([[100, 200], [64, 64]]), np.int32([[50, 400], [0, 0]]))
    np.testing.assert_allclose(first.boxes, [[5, 40, 25, 200], [0, 0, 49.995, 400]], rtol=1e-6)
    assert first.boxes.dtype == np.float32 and first.boxes[1, 3] == 400  # clipped
    assert first.scores.tolist() == [0.75, 0.25] and first.classes.tolist() == [1, 0]
    decoded = coco_mask.decode(first.masks[0])
    assert decoded.shape == (50, 400) and decoded.sum() == 20 * 160 and decoded[5:25, 40:200].all()
    assert len(second.boxes) == len(second.masks) == 0


def test_coco_results(detections):
    sizes, original = np.float32([[100, 200], [64, 64]]), np.int32([[50, 400], [0, 0]])
    found = results.image_results(detections, sizes, original)
    entries = results.coco_results(found, np.int64([7, -1]), [18, 44])
    assert json.loads(json.dumps(entries)) == entries
    assert [(e["image_id"], e["category_id"], e["score"]) for e in entries] == [(7, 44, 0.75), (7, 18, 0.25)]
    assert entries[0]["bbox"] == [40, 5, 160, 20]
    assert entries[0]["segmentation"]["size"] == [50, 400] and isinstance(entries[0]["segmentation"]["counts"], str)


def test_without_masks_there_is_no_segmentation(detections):
    found = results.image_results(detections._replace(masks=None), np.ones((2, 2)) * 200, np.ones((2, 2), int) * 200)
    entries = results.coco_results(found, [1, 2], [1, 2])
    assert found[0].masks is None and len(entries) == 2
    assert all("segmentation" not in entry for entry in entries)


def test_rows_that_only_fill_up_a_batch_are_left_out(detections):
    valid = detections._replace(valid=np.ones((2, 3), bool))
    found = results.image_results(valid, np.ones((2, 2)) * 200, np.ones((2, 2), int) * 200)
    assert {entry["image_id"] for entry in results.coco_results(found, [5, -1], [1, 2])} == {5}
