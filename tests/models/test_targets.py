"""Sampled anchors and RoIs: golden cases with a few boxes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.targets import AnchorSampler, RoISampler
from htc_tf.ops.matching import subsample_evenly
from htc_tf.structures import GroundTruth

SEED = tf.constant([1, 2])
SIZES = tf.constant([[100.0, 100.0]])


def evenly(seed):
    return subsample_evenly


def make_truth(boxes, valid):
    boxes = tf.constant(boxes, tf.float32)
    batch, count = boxes.shape[:2]
    classes = tf.zeros([batch, count], tf.int32)
    return GroundTruth(boxes, classes, tf.constant(valid), tf.zeros([batch, count, 4, 4], tf.uint8), boxes, None)


ANCHORS = tf.constant(
    [
        [0, 0, 10, 10],  # the first object itself
        [0, 0, 10, 20],  # IoU 0.5 with the first object: neither positive nor negative
        [50, 50, 60, 60],  # IoU 0.4 with the second object, for which it is the best
        [95, 95, 105, 105],  # outside the image
        [0, 0, 20, 20],  # IoU 0.25 with the first object
    ],
    tf.float32,
)
# The third is padding, although it would fit the second anchor.
OBJECTS = make_truth([[[0, 0, 10, 10], [50, 50, 60, 75], [0, 0, 10, 20]]], [[True, True, False]])


def test_anchors():
    targets = AnchorSampler(choose=evenly)(ANCHORS, OBJECTS, SIZES, SEED)
    assert targets.positive.numpy().tolist() == [[True, False, True, False, False]]
    assert targets.negative.numpy().tolist() == [[False, False, False, False, True]]
    assert targets.matches.numpy()[0, [0, 2]].tolist() == [0, 1]


def test_anchors_outside_the_image_may_take_part():
    targets = AnchorSampler(choose=evenly, inside_only=False)(ANCHORS, OBJECTS, SIZES, SEED)
    assert targets.negative.numpy().tolist() == [[False, False, False, True, True]]


def test_anchor_thresholds_and_limits():
    targets = AnchorSampler(choose=evenly, minimum_iou=0.45)(ANCHORS, OBJECTS, SIZES, SEED)
    assert targets.positive.numpy().tolist() == [[True, False, False, False, False]]
    targets = AnchorSampler(choose=evenly, positive_iou=0.5, negative_iou=0.2)(ANCHORS, OBJECTS, SIZES, SEED)
    assert targets.positive.numpy().tolist() == [[True, True, True, False, False]]
    assert not targets.negative.numpy().any()
    targets = AnchorSampler(choose=evenly, limit=2)(ANCHORS, OBJECTS, SIZES, SEED)
    assert (targets.positive.numpy().sum(), targets.negative.numpy().sum()) == (1, 1)


@pytest.mark.parametrize("name", ["positive_iou", "minimum_iou"])
def test_an_anchor_that_overlaps_no_object_is_never_positive(name):
    """An IoU of 0 would make every anchor the best of an object that none overlaps."""
    with pytest.raises(UserError, match=rf"^AnchorSampler\.{name} = 0: must be a number, more than 0, at most 1$"):
        AnchorSampler(**{name: 0})


def test_an_image_without_objects_has_negatives_only():
    nothing = OBJECTS._replace(valid=tf.zeros([1, 3], tf.bool))
    targets = AnchorSampler(choose=evenly)(ANCHORS, nothing, SIZES, SEED)
    assert not targets.positive.numpy().any()
    assert targets.negative.numpy().tolist() == [[True, True, True, False, True]]


TRUTH = make_truth([[[10, 10, 30, 30], [0, 0, 5, 5]]], [[True, False]])
PROPOSALS = tf.constant(
    [
        [
            [50, 50, 60, 60],
            [10, 10, 30, 50],  # IoU 0.5
            [10, 10, 30, 28],  # IoU 0.9, but not valid
            [11, 10, 30, 30],  # IoU 0.95
            [0, 0, 5, 5],  # the box of a padding object
        ]
    ],
    tf.float32,
)
VALID = tf.constant([[True, True, False, True, True]])


def sample(iou_threshold=0.5, **arguments):
    sampler = RoISampler(**{"limit": 8, "positive_fraction": 0.5, "choose": evenly} | arguments)
    rois = sampler(PROPOSALS, VALID, TRUTH, iou_threshold, SEED)
    return sampler, rois, [tuple(box) for box in rois.boxes.numpy()[0].astype(int).tolist()]


def test_order_is_ground_truth_positives_negatives_padding():
    _, rois, boxes = sample()
    assert boxes[:3] == [(10, 10, 30, 30), (10, 10, 30, 50), (11, 10, 30, 30)]
    assert boxes[3:5] == [(50, 50, 60, 60), (0, 0, 5, 5)]
    assert boxes[5:] == [(0, 0, 0, 0)] * 3
    assert rois.positive.numpy()[0].tolist() == [True] * 3 + [False] * 5
    assert rois.valid.numpy()[0].tolist() == [True] * 5 + [False] * 3
    assert rois.is_truth.numpy()[0].tolist() == [True] + [False] * 7
    assert rois.matches.numpy()[0].tolist() == [0] * 8


def test_the_threshold_of_the_stage_is_used():
    _, rois, boxes = sample(iou_threshold=0.6)
    assert boxes[:5] == [(10, 10, 30, 30), (11, 10, 30, 30), (50, 50, 60, 60), (10, 10, 30, 50), (0, 0, 5, 5)]
    assert rois.positive.numpy()[0].tolist() == [True] * 2 + [False] * 6


def test_limits():
    _, rois, boxes = sample(limit=3, positive_fraction=0.34)
    assert boxes == [(10, 10, 30, 30), (50, 50, 60, 60), (0, 0, 5, 5)]
    assert rois.positive.numpy()[0].tolist() == [True, False, False]
    # Missing positives are replaced by negatives, missing negatives by padding.
    _, rois, _ = sample(limit=6, positive_fraction=0.2)
    assert (rois.positive.numpy().sum(), rois.valid.numpy().sum()) == (1, 3)


def test_without_the_ground_truth_all_boxes_are_kept():
    """As in the later stages of detectron2's cascade."""
    _, rois, boxes = sample(limit=5, positive_fraction=1.0, append_truth=False)
    assert boxes[:2] == [(10, 10, 30, 50), (11, 10, 30, 30)] and boxes[4] == (0, 0, 0, 0)
    assert rois.positive.numpy()[0].tolist() == [True] * 2 + [False] * 3
    assert rois.valid.numpy()[0].tolist() == VALID.numpy()[0][[0, 1, 3, 4, 2]].tolist()
    assert not rois.is_truth.numpy().any()


def test_the_mask_branch_draws_from_the_positives():
    """Its boxes are not mostly the ground truth's, which come first among the candidates."""
    near = tf.tile([[[10.0, 10, 30, 30], [50, 50, 60, 60]]], [1, 7, 1])  # IoU 1 with either object
    sampler = RoISampler(limit=8, positive_fraction=1.0, mask_limit=4)
    counts = np.zeros(2)  # of ground-truth boxes among all RoIs, and among the mask branch's
    for seed in range(60):
        rois = sampler(near, tf.ones([1, 14], tf.bool), TRUTH, 0.5, tf.constant([seed, 0]))
        taken = sampler.positives(rois)
        assert taken.valid.numpy().all() and taken.boxes.shape == (1, 4, 4)
        counts += rois.is_truth.numpy().mean(), taken.is_truth.numpy().mean()
    # Two of sixteen candidates: an eighth, give or take three standard deviations.
    np.testing.assert_allclose(counts / 60, 1 / 8, atol=0.064)


def test_the_number_of_masks_is_limited():
    sampler, rois, boxes = sample(mask_limit=2)
    first = sampler.positives(rois)
    assert first.boxes.numpy()[0].astype(int).tolist() == [list(box) for box in boxes[:2]]
    assert first.valid.numpy().tolist() == first.positive.numpy().tolist() == [[True, True]]
    assert sample(mask_limit=100)[0].mask_limit == 4
    sampler, rois, _ = sample()
    assert sampler.positives(rois).valid.numpy()[0].tolist() == [True] * 3 + [False]


def test_nothing_to_sample():
    sampler = RoISampler(limit=4, choose=evenly)
    nothing = TRUTH._replace(valid=tf.zeros([1, 2], tf.bool))
    rois = sampler(PROPOSALS, VALID, nothing, 0.5, SEED)
    assert not rois.positive.numpy().any() and not rois.is_truth.numpy().any() and rois.valid.numpy().all()
    rois = sampler(PROPOSALS, tf.zeros_like(VALID), nothing, 0.5, SEED)
    assert not rois.valid.numpy().any() and not rois.positive.numpy().any()
    assert not rois.boxes.numpy().any() and not rois.matches.numpy().any()


def test_images_are_independent_and_the_seed_decides():
    boxes = tf.random.stateless_uniform([2, 60, 4], [3, 4], 0.0, 40.0)
    boxes = tf.concat([boxes[..., :2], boxes[..., :2] + 5.0 + boxes[..., 2:]], -1)
    truth = make_truth([[[10, 10, 30, 30]], [[20, 20, 60, 60]]], [[True], [False]])
    sampler = RoISampler(limit=16, positive_fraction=0.25)
    one, again, other = (sampler(boxes, tf.ones([2, 60], tf.bool), truth, 0.3, seed) for seed in (SEED, SEED, SEED + 1))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.boxes, other.boxes)
    assert one.positive.numpy().sum(1).tolist() == [4, 0]
    for row in range(2):
        mine = {tuple(box) for box in np.concatenate([boxes.numpy()[row], truth.boxes.numpy()[row]]).tolist()}
        assert {tuple(box) for box in one.boxes.numpy()[row].tolist()} <= mine
