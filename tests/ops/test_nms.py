"""Greedy NMS, both implementations: against NumPy, against mmdetection and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import nms
from tests.modes import MODES

COMBINED, XLA = ("combined", "graph"), ("xla", "xla")
BOTH = [COMBINED, XLA]
EVERY = [("combined", "eager"), COMBINED, ("xla", "eager"), ("xla", "graph"), XLA]


def select_proposals(mode, *args):
    implementation, compiled = mode
    return MODES[compiled](lambda *tensors: nms.select_proposals(*tensors, *args[3:], implementation))(*args[:3])


def select_detections(mode, *args):
    implementation, compiled = mode
    return MODES[compiled](lambda *tensors: nms.select_detections(*tensors, *args[3:], implementation))(*args[:3])


def clustered(shape, objects=12, seed=0):
    """Returns boxes as heads predict them: many around each of a few objects."""
    random = np.random.RandomState(seed)
    center, size = random.uniform(0, 400, (objects, 2)), np.exp(random.normal(4, 0.7, (objects, 2)))
    which = random.randint(0, objects, shape)
    jitter = random.normal(0, 0.18, (2, *shape, 2))
    center, size = center[which] + jitter[0] * size[which], size[which] * np.exp(jitter[1])
    return np.concatenate([center - size / 2, center + size / 2], axis=-1).astype(np.float32)


def distinct(shape, seed=0):
    """Returns scores in (0, 1) without ties, whose order would be arbitrary."""
    size = np.prod(shape)
    return ((np.random.RandomState(seed).permutation(size) + 1) / (size + 1)).reshape(shape).astype(np.float32)


def greedy(boxes, scores, threshold):
    """Textbook NMS: returns the indices of the boxes that are kept, best first."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        overlap = np.maximum(sides, 0).prod(axis=-1)
        order = rest[overlap / (area[best] + area[rest] - overlap) <= threshold]
    return np.array(kept, int)


def greedy_by_group(boxes, scores, groups, threshold, keep):
    """Applies greedy NMS to each group; returns boxes, scores and groups of the best `keep` of all, best first."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    kept = np.concatenate([[0][:0], *(m[greedy(boxes[m], scores[m], threshold)] for m in members)]).astype(int)
    best = kept[np.argsort(-scores[kept])][:keep]
    return boxes[best], scores[best], groups[best]


def assert_same(results, others):
    for result, other in zip(results, others, strict=True):
        np.testing.assert_array_equal(result, other)


def assert_selected(selected, image, *expected):
    """Checks that the selection of one image is as expected, best first, followed by zeros."""
    count = len(expected[0])
    np.testing.assert_array_equal(selected.valid[image], np.arange(selected.valid.shape[1]) < count)
    fields = [field for field in selected if field is not None and field is not selected.valid]
    for field, values in zip(fields, expected, strict=True):
        np.testing.assert_array_equal(field[image, :count], values)
        np.testing.assert_array_equal(field[image, count:], np.zeros_like(field[image, count:]))


@pytest.mark.parametrize("compiled", MODES)
def test_suppress_golden(compiled):
    boxes = tf.constant([[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2], [9, 9, 9, 9], [9, 9, 9, 9], [0, 0, 4, 1]])
    suppress = MODES[compiled](lambda valid: nms.suppress(boxes, valid, 0.5))
    # The third has an IoU of exactly 0.5 with the first and is kept; the second would suppress it, but is suppressed.
    assert_same([suppress(tf.constant([True] * 6))], [[True, False, True, True, True, True]])
    # Without the first, the second suppresses the third.
    assert_same([suppress(tf.constant([False] + [True] * 5))], [[False, True, False, True, True, True]])
    assert_same([suppress(tf.constant([False] * 6))], [[False] * 6])


@pytest.mark.parametrize("compiled", MODES)
def test_suppress_follows_a_chain_through_the_tiles(compiled):
    along = tf.range(2.5 * nms.TILE)
    boxes = tf.stack([along, tf.zeros_like(along), along + 3, tf.ones_like(along)], axis=-1)
    keep = MODES[compiled](lambda *x: nms.suppress(*x, 0.4))(boxes, tf.ones(len(along), tf.bool))
    assert_same([keep], [np.arange(len(along)) % 2 == 0])


@pytest.mark.parametrize("compiled", MODES)
def test_suppress_equals_greedy(compiled):
    boxes = clustered((2, 2, 600))
    valid = np.random.RandomState(1).uniform(size=(2, 2, 600)) < 0.8
    keep = MODES[compiled](lambda *x: nms.suppress(*x, 0.6))(boxes, valid)
    expected = np.zeros_like(valid)
    for at in np.ndindex(2, 2):
        rows = np.flatnonzero(valid[at])
        expected[at][rows[greedy(boxes[at][rows], -rows, 0.6)]] = True
    assert 0.1 < expected.mean() < 0.6
    assert_same([keep], [expected])


def test_the_tiles_of_a_gpu_keep_the_same_boxes(monkeypatch):
    boxes, valid = clustered((2, 1200)), tf.ones([2, 1200], tf.bool)
    expected = nms.suppress(boxes, valid, 0.6)
    monkeypatch.setattr(nms, "has_gpu", lambda: True)
    assert nms.tile_size() > nms.TILE
    assert_same([nms.suppress(boxes, valid, 0.6)], [expected])


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("keep", [50, 400])
def test_proposals_equal_greedy_on_each_level(mode, keep):
    boxes, scores = clustered((2, 3, 300)), distinct((2, 3, 300))
    valid = np.arange(300) < np.array([[300], [120], [7]]) + np.zeros((2, 1, 1))
    selected = select_proposals(mode, boxes, scores, valid, 0.7, keep)
    assert selected.boxes.shape == (2, keep, 4)
    for image in range(2):
        rows = valid[image]
        best = greedy_by_group(boxes[image][rows], scores[image][rows], np.nonzero(rows)[0], 0.7, keep)
        assert_selected(selected, image, *best[:2])
    assert np.any(selected.valid.numpy()[:, -1]) == (keep == 50)


@pytest.mark.parametrize("mode", [*BOTH, ("xla", "eager")])
@pytest.mark.parametrize("case", "ab")
def test_proposals_equal_mmdetection(reference, compare, mode, case):
    arrays = reference("op_nms")
    groups, expected = arrays[f"b_idx_{case}"], arrays[f"b_dets_{case}"]
    levels, length = groups.max() + 1, np.bincount(groups).max()
    boxes, scores = np.zeros((1, levels, length, 4), np.float32), np.zeros((1, levels, length), np.float32)
    valid = np.zeros(scores.shape, bool)
    for level in range(levels):
        rows = groups == level
        boxes[0, level, : rows.sum()] = arrays[f"mc_boxes_{case}"][rows][:, [1, 0, 3, 2]]
        scores[0, level, : rows.sum()] = arrays[f"b_scores_{case}"][rows]
        valid[0, level, : rows.sum()] = True
    selected = select_proposals(mode, boxes, scores, valid, 0.7, 500)
    assert_selected(selected, 0, expected[:, [1, 0, 3, 2]], expected[:, 4])
    count = len(expected)
    compare("NMS on each level: boxes, pixels", selected.boxes[0, :count], expected[:, [1, 0, 3, 2]])
    compare("NMS on each level: scores", selected.scores[0, :count], expected[:, 4])


@pytest.mark.parametrize("mode", [*BOTH, ("xla", "eager")])
@pytest.mark.parametrize("case", "ab")
def test_detections_equal_mmdetection(reference, compare, mode, case):
    arrays = reference("op_nms")
    boxes, scores = arrays[f"mc_boxes_{case}"][:, [1, 0, 3, 2]], arrays[f"mc_scores_{case}"][:, :80]
    selected = select_detections(mode, boxes[None], scores[None], np.ones((1, len(boxes)), bool), 0.001, 0.5, 100)
    expected = arrays[f"mc_dets_{case}"]
    assert_selected(selected, 0, expected[:, [1, 0, 3, 2]], expected[:, 4], arrays[f"mc_labels_{case}"])
    count = len(expected)
    compare("NMS on each class: boxes, pixels", selected.boxes[0, :count], expected[:, [1, 0, 3, 2]])
    compare("NMS on each class: scores", selected.scores[0, :count], expected[:, 4])
    compare("NMS on each class: classes", selected.classes[0, :count], arrays[f"mc_labels_{case}"])


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("keep, score_threshold", [(30, 0.1), (150, 0.9), (1500, 0.0)])
def test_detections_equal_greedy_on_each_class(mode, keep, score_threshold):
    boxes, scores = clustered((2, 200)), distinct((2, 200, 6))
    valid = np.random.RandomState(2).uniform(size=(2, 200)) < 0.7
    selected = select_detections(mode, boxes, scores, valid, score_threshold, 0.5, keep)
    assert selected.boxes.shape == (2, keep, 4)
    assert selected.masks is None
    for image in range(2):
        rows, classes = np.nonzero((scores[image] > score_threshold) & valid[image][:, None])
        best = greedy_by_group(boxes[image][rows], scores[image][rows, classes], classes, 0.5, keep)
        assert_selected(selected, image, *best)


@pytest.mark.parametrize("mode", EVERY)
def test_detections_with_boxes_for_each_class(mode):
    boxes, scores = clustered((2, 120, 5)), distinct((2, 120, 5))
    valid = np.random.RandomState(2).uniform(size=(2, 120)) < 0.7
    selected = select_detections(mode, boxes, scores, valid, 0.2, 0.4, 60)
    for image in range(2):
        rows, classes = np.nonzero((scores[image] > 0.2) & valid[image][:, None])
        best = greedy_by_group(boxes[image][rows, classes], scores[image][rows, classes], classes, 0.4, 60)
        assert_selected(selected, image, *best)


@pytest.mark.parametrize("mode", EVERY)
def test_detections_are_found_among_the_last_candidates(mode):
    """All pairs of class 0 are better than those of class 1, and so on, but only the best of each class is kept."""
    boxes, classes = 400, 5
    scores = np.sort(distinct((1, classes * boxes)), axis=-1)[:, ::-1].reshape(1, classes, boxes).swapaxes(1, 2)
    same = np.tile(np.float32([10, 10, 50, 60]), (1, boxes, 1))
    selected = select_detections(mode, same, scores.copy(), np.ones((1, boxes), bool), 0.0, 0.5, 10)
    assert_selected(selected, 0, same[0, :classes], scores[0].max(axis=0), np.arange(classes))


@pytest.mark.parametrize("mode", EVERY)
def test_detection_golden(mode):
    boxes = np.float32([[[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2], [5, 5, 9, 9]]])
    scores = np.float32([[[0.9, 0.05], [0.8, 0.7], [0.6, 0.3], [0.5, 0.1]]])
    selected = select_detections(mode, boxes, scores, np.array([[True, True, True, False]]), 0.05, 0.5, 6)
    # Class 0: the second is suppressed, so the third is kept. Class 1: 0.05 is not above the threshold, the third is
    # suppressed.
    assert_selected(selected, 0, boxes[0, [0, 1, 2]], np.float32([0.9, 0.7, 0.6]), [0, 1, 0])


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("junk", [np.nan, np.inf])
def test_nothing_valid_selects_nothing(mode, junk):
    boxes, scores = np.full((2, 3, 5, 4), junk, np.float32), np.full((2, 3, 5), junk, np.float32)
    nothing = np.zeros((2, 3, 5), bool)
    proposals = select_proposals(mode, boxes, scores, nothing, 0.7, 20)
    detections = select_detections(mode, boxes[:, 0], scores[:, 0, :, None], nothing[:, 0], 0.0, 0.5, 20)
    assert_same(proposals, [np.zeros((2, 20, 4)), np.zeros((2, 20)), np.zeros((2, 20), bool)])
    assert_same(detections[:4], [np.zeros((2, 20, 4)), np.zeros((2, 20)), np.zeros((2, 20)), np.zeros((2, 20), bool)])


@pytest.mark.parametrize("mode", BOTH)
def test_junk_that_is_not_valid_changes_nothing(mode):
    boxes, scores, valid = clustered((1, 1, 40)), distinct((1, 1, 40)), np.arange(40)[None, None] % 3 > 0
    clean = select_proposals(mode, boxes, scores, valid, 0.7, 20)
    boxes[~valid], scores[~valid] = np.nan, np.inf
    assert_same(select_proposals(mode, boxes, scores, valid, 0.7, 20), clean)
    scores[~valid] = np.nan
    assert_same(select_proposals(mode, boxes, scores, valid, 0.7, 20), clean)


@pytest.mark.parametrize("mode", BOTH)
def test_a_probability_of_zero_still_counts(mode):
    boxes = np.float32([[[[0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 4, 3]]]])
    selected = select_proposals(mode, boxes, np.float32([[[0.5, 0, 0]]]), np.ones((1, 1, 3), bool), 0.7, 4)
    assert_selected(selected, 0, boxes[0, 0, :2], [0.5, 0.0])


@pytest.mark.parametrize("mode", ["combined", "xla"])
def test_batch_size_may_be_unknown(mode):
    def select(*tensors):
        return nms.select_detections(*tensors, 0.1, 0.5, 10, mode)

    signature = [tf.TensorSpec([None, 50, 4]), tf.TensorSpec([None, 50, 2]), tf.TensorSpec([None, 50], tf.bool)]
    inputs = [tf.constant(x) for x in (clustered((3, 50)), distinct((3, 50, 2)), np.ones((3, 50), bool))]
    assert_same(tf.function(select, signature, autograph=False)(*inputs)[:4], select(*inputs)[:4])


@pytest.mark.parametrize("implementation", ["combined", "xla"])
def test_no_gradient_passes(implementation):
    boxes, scores, valid = tf.constant(clustered((1, 2, 9))), tf.constant(distinct((1, 2, 9))), tf.ones([1, 2, 9], bool)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([boxes, scores])
        proposals = nms.select_proposals(boxes, scores, valid, 0.7, 5, implementation)
        detections = nms.select_detections(boxes[:, 0], scores[:, 0, :, None], valid[:, 0], 0.1, 0.5, 5, implementation)
    for selected in (proposals, detections):
        assert tape.gradient([selected.boxes, selected.scores], [boxes, scores]) == [None, None]


def test_unknown_implementation_is_the_users_mistake():
    with pytest.raises(UserError, match="'fast'"):
        nms.select_proposals(tf.zeros([1, 1, 2, 4]), tf.zeros([1, 1, 2]), tf.zeros([1, 1, 2], tf.bool), 0.7, 2, "fast")
