"""An untrained network proposes and samples what a trained one would."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from htc_tf.data.synthetic import draw_boxes
from htc_tf.models.stage import Stage
from htc_tf.models.targets import RoISampler
from htc_tf.structures import GroundTruth, Proposals
from htc_tf.training.typical_load import OfferedPositives, propose_typical_boxes


def test_typical_boxes_wait_for_the_predicted_ones():
    """Otherwise the graph could pool them before the RPN has run, and hold more in memory than a trained network's."""
    found = Proposals(tf.fill([1, 5, 4], 1e4), tf.ones([1, 5]), tf.fill([1, 5], True))
    rpn = SimpleNamespace(propose=lambda boxes: found._replace(boxes=boxes))
    propose_typical_boxes(rpn, 300, 500)
    np.testing.assert_array_equal(rpn.propose(found.boxes).boxes[0], draw_boxes(5, 300, 500))
    assert np.isnan(rpn.propose(found.boxes * np.nan).boxes).all()


def test_each_stage_finds_what_it_is_offered():
    """512 RoIs with 8 objects: 128, 76 and 44 positives; no other box that overlaps an object is one."""
    stages = [Stage(None, iou_threshold=threshold) for threshold in (0.5, 0.6, 0.7)]
    sampler = OfferedPositives(RoISampler(), stages, objects=8)
    assert sampler.expected_positives(2) == [256, 152, 88]
    corners = np.float32([[100 * i, 50 * i] for i in range(8)])
    objects = np.concatenate([corners, corners + np.float32([90, 60])], axis=1)
    padded = tf.constant(np.concatenate([objects, np.zeros([4, 4])])[np.newaxis], tf.float32)
    valid = tf.range(12)[tf.newaxis] < 8
    truth = GroundTruth(padded, tf.zeros([1, 12], tf.int32), valid, None, None, None)
    # Ten of each object's own box among 600.
    boxes = np.float32(np.concatenate([np.tile(objects, (10, 1)), np.tile([[0, 700, 40, 780]], (520, 1))]))[np.newaxis]
    for stage, wanted in zip(stages, (128, 76, 44), strict=True):
        rois = sampler(tf.constant(boxes), tf.ones([1, 600], tf.bool), truth, stage.iou_threshold, [0, 0])
        assert rois.valid.shape == (1, 512) and rois.valid.numpy().all()
        assert rois.positive.numpy().sum() == wanted and rois.is_truth.numpy().sum() == 8
        positive = sampler.positives(rois)
        assert positive.boxes.shape == (1, 128, 4) and positive.valid.numpy().sum() == wanted
        shared = np.bincount(rois.matches.numpy()[rois.positive.numpy()])
        assert shared.sum() == wanted and shared.max() - shared.min() <= 1
