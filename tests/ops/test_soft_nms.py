"""Soft-NMS in every mode: against the paper's loop in NumPy, and on numbers computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops.soft_nms import select_softly
from tests.modes import MODES


def plain(boxes, scores, threshold, method, overlap, sigma):
    """Computes the paper's figure 2 for one class: (score, index) in the order of selection."""
    scores, left, chosen = scores.astype(np.float64), list(np.flatnonzero(scores > threshold)), []
    while left:
        best = max(left, key=lambda i: scores[i])
        left.remove(best)
        chosen.append((scores[best], best))
        for i in left:
            sides = np.minimum(boxes[best, 2:], boxes[i, 2:]) - np.maximum(boxes[best, :2], boxes[i, :2])
            inner = np.prod(np.maximum(sides, 0))
            iou = inner / (np.prod(boxes[best, 2:] - boxes[best, :2]) + np.prod(boxes[i, 2:] - boxes[i, :2]) - inner)
            if method == "gaussian":
                scores[i] *= np.exp(-(iou**2) / sigma)
            elif iou > overlap:
                scores[i] *= 1 - iou
        left = [i for i in left if scores[i] > threshold]
    return chosen


def random_case(seed=0, count=60, classes=3):
    random = np.random.RandomState(seed)
    centers = random.uniform(0, 100, (8, 2))[random.randint(0, 8, (2, count))]
    first = centers + random.normal(0, 6, (2, count, 2))
    boxes = np.concatenate([first, first + random.uniform(20, 45, (2, count, 2))], axis=-1).astype(np.float32)
    scores = random.uniform(0, 1, (2, count, classes)).astype(np.float32) ** 2
    return boxes, scores, random.uniform(size=(2, count)) < 0.8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_equals_the_papers_loop_on_each_class(mode, method):
    boxes, scores, valid = random_case()
    select = MODES[mode](lambda *x: select_softly(*x, 0.05, 40, method, 0.3, 0.4))
    found = select(*map(tf.constant, (boxes, scores, valid)))
    for image in range(2):
        rows = np.flatnonzero(valid[image])
        expected = sorted(
            (
                (score, label, rows[index])
                for label in range(3)
                for score, index in plain(boxes[image, rows], scores[image, rows, label], 0.05, method, 0.3, 0.4)
            ),
            reverse=True,
        )[:40]
        assert len(expected) == 40 and found.valid.numpy()[image].all()
        np.testing.assert_allclose(found.scores[image], [score for score, *_ in expected], rtol=1e-5)
        assert found.classes.numpy()[image].tolist() == [label for _, label, _ in expected]
        np.testing.assert_array_equal(found.boxes[image], boxes[image, [row for *_, row in expected]])
    assert found.masks is None


@pytest.mark.parametrize("mode", MODES)
def test_by_hand(mode):
    boxes = tf.constant([[[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 1], [9, 9, 12, 12], [0, 0, 4, 4]]])
    scores = tf.constant([[[0.8, 0.0], [0.6, 0.5], [0.4, 0.0], [0.3, 0.0], [0.9, 0.9]]])
    valid = tf.constant([[True, True, True, True, False]])
    found = MODES[mode](lambda *x: select_softly(*x, 0.2, 6, "linear", 0.3))(boxes, scores, valid)
    # The second has an IoU of 3/4 with the first and falls to 0.15, below 0.2; the third only 1/4. Class 1 is separate.
    np.testing.assert_allclose(found.scores[0], [0.8, 0.5, 0.4, 0.3, 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.classes[0], [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.valid[0], [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(found.boxes[0, :4], boxes[0, :4])
    np.testing.assert_array_equal(found.boxes[0, 4:], np.zeros((2, 4)))


def test_nothing_valid_selects_nothing():
    junk = tf.fill([1, 3, 4], np.nan)
    found = select_softly(junk, tf.fill([1, 3, 2], np.nan), tf.zeros([1, 3], tf.bool), 0.0, 5)
    for field in found[:4]:
        assert not np.any(field)


def test_the_graph_does_not_grow_with_the_detections():
    def count_tensors(keep):
        select = tf.function(lambda *x: select_softly(*x, 0.05, keep), autograph=False)
        specs = (
            tf.TensorSpec(shape, dtype) for shape, dtype in (([None, 9, 4], tf.float32), ([None, 9, 2], tf.float32))
        )
        graph = select.get_concrete_function(*specs, tf.TensorSpec([None, 9], tf.bool))
        assert [tuple(shape) for shape in graph.output_shapes[:3]] == [(None, keep, 4), (None, keep), (None, keep)]
        return sum(len(operation.outputs) for operation in graph.graph.get_operations())

    assert count_tensors(100) == count_tensors(10)


def test_an_unknown_method_is_the_users_mistake():
    with pytest.raises(UserError, match="'hard'"):
        select_softly(tf.zeros([1, 1, 4]), tf.zeros([1, 1, 1]), tf.ones([1, 1], tf.bool), 0.0, 1, "hard")
