"""Results at original resolution: rescaled boxes, pasted masks, and batches in order."""

import json
import threading
from typing import NamedTuple

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.inference import results


class Detections(NamedTuple):
    """The fields of structures.Detections, without TensorFlow."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    valid: np.ndarray
    masks: np.ndarray | None = None


class Batch(NamedTuple):
    """The two fields of structures.Batch that the results need."""

    sizes: np.ndarray
    original_sizes: np.ndarray


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


def test_batches_come_in_order_whichever_is_done_first(detections, monkeypatch):
    taken = threading.Barrier(2, timeout=20)
    plain = results.image_results

    def slow_first(found, sizes, original_sizes):
        # The first batch waits until the second one is being processed too.
        if sizes[0, 0] < 2:
            taken.wait()
        return plain(found, sizes, original_sizes)

    monkeypatch.setattr(results, "image_results", slow_first)
    batches = [Batch(np.float32([[i, i]] * 2), np.int32([[i, i]] * 2)) for i in range(20)]
    streamed = list(results.stream_results((batch, detections) for batch in batches))
    assert [batch for batch, _ in streamed] == batches
    for batch, found in streamed:
        expected = plain(detections, batch.sizes, batch.original_sizes)
        for result, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(result.boxes, other.boxes)
            assert result.masks == other.masks


def test_a_failure_in_a_thread_reaches_the_caller(detections):
    with pytest.raises(IndexError):
        list(results.stream_results([(Batch(np.ones((1, 2)), np.ones((2, 2), int)), detections)]))


def test_without_masks_there_is_no_segmentation(detections):
    found = results.image_results(detections._replace(masks=None), np.ones((2, 2)) * 200, np.ones((2, 2), int) * 200)
    entries = results.coco_results(found, [1, 2], [1, 2])
    assert found[0].masks is None and len(entries) == 2
    assert all("segmentation" not in entry for entry in entries)


def test_padding_rows_of_a_batch_are_left_out(detections):
    valid = detections._replace(valid=np.ones((2, 3), bool))
    found = results.image_results(valid, np.ones((2, 2)) * 200, np.ones((2, 2), int) * 200)
    assert {entry["image_id"] for entry in results.coco_results(found, [5, -1], [1, 2])} == {5}
