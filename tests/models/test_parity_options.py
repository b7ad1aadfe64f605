"""The options of gin/options/paddle.gin and gin/options/mmdet3.gin, each both ways, on small tensors.

The numbers with them are compared in test_parity_paddle.py and test_parity_mmdet.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.models.layers import Convolution
from htc_tf.models.targets import AnchorSampler, RoISampler
from htc_tf.ops.matching import subsample_evenly
from htc_tf.structures import GroundTruth, RoIs, StageOutput

PAPER = "gin/htc_r50_fpn_1x_coco.gin"


def evenly(seed):
    del seed
    return subsample_evenly


def truth_of(*boxes):
    boxes = tf.constant([boxes], tf.float32)
    return GroundTruth(boxes, None, tf.ones(boxes.shape[:2], tf.bool), None, None, None)


@pytest.mark.parametrize("minimum_iou, positives", [(0.3, [False, False]), (1e-6, [True, False])])
def test_best_anchors_are_positive_from_minimum_iou(minimum_iou, positives):
    anchors = tf.constant([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    sampler = AnchorSampler(minimum_iou=minimum_iou, choose=evenly)
    targets = sampler(anchors, truth_of([0, 0, 10, 90]), tf.constant([[99.0, 99.0]]), None)
    assert targets.positive.numpy()[0].tolist() == positives


@pytest.mark.parametrize("reassign, match", [(True, 1), (False, 0)])
def test_target_of_an_objects_best_anchor(reassign, match):
    """Its IoU is 1 with the first object and 0.8 with the second, for which it is the best."""
    anchors = tf.constant([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    sampler = AnchorSampler(reassign=reassign, choose=evenly)
    targets = sampler(anchors, truth_of([0, 0, 10, 10], [0, 0, 8, 10]), tf.constant([[99.0, 99.0]]), None)
    assert targets.positive.numpy()[0].tolist() == [True, False]
    assert targets.matches.numpy()[0, 0] == match


@pytest.mark.parametrize("low_quality, match", [(True, 1), (False, 0)])
def test_target_of_an_objects_best_box(low_quality, match):
    truth = truth_of([0, 0, 10, 10], [0, 0, 8, 10])
    sampler = RoISampler(limit=4, positive_fraction=1.0, low_quality=low_quality, choose=evenly)
    rois = sampler(tf.constant([[[0.0, 0, 10, 10]]]), tf.constant([[True]]), truth, 0.5, None)
    assert rois.positive.numpy()[0].tolist() == [True, True, True, False]
    assert rois.matches.numpy()[0, 2] == match


BOXES = tf.constant([[[0.0, 0, 9, 9], [5, 9, 9, 9], [0, 0, 0, 9], [3, 3, 4, 4]]])  # the second and third have no area


@pytest.mark.parametrize("drop_refined_truth", [True, False])
@pytest.mark.parametrize("drop_empty", [True, False])
def test_which_boxes_are_valid_for_the_next_stage(tiny_experiment, drop_refined_truth, drop_empty):
    params = f"HTC.drop_refined_truth={drop_refined_truth}", f"HTC.drop_empty={drop_empty}"
    model = tiny_experiment(*params).build_model()
    valid, is_truth = tf.constant([[True, True, True, False]]), tf.constant([[True, False, False, False]])
    output = StageOutput(RoIs(BOXES, valid, is_truth=is_truth), None, None, None, BOXES)
    expected = [not drop_refined_truth, not drop_empty, not drop_empty, False]
    assert model.valid_for_next_stage(output).numpy()[0].tolist() == expected
    detected = output._replace(rois=RoIs(BOXES, valid))
    assert model.valid_for_next_stage(detected).numpy()[0].tolist() == [True, *expected[1:]]


@pytest.mark.parametrize("norm, learning", [("frozen_batch", 2), ("constant_batch", 0)])
def test_batch_norm_on_stored_statistics(norm, learning):
    layer = Convolution(3, 1, norm=norm)
    x = tf.random.stateless_normal([2, 4, 4, 5], seed=[1, 2])
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    assert len(layer.trainable_variables) == 1 + learning and len(layer.variables) == 5


def test_overrides():
    paper = config.load([PAPER], [])[0].build_model()
    assert paper.average_masks and paper.drop_refined_truth and not paper.drop_empty and paper.rpn.minimum_size == 0
    assert paper.roi_sampler.low_quality

    mmdet = config.load([PAPER, "gin/options/mmdet3.gin"], [])[0].build_model()
    assert not mmdet.average_masks

    experiment, _ = config.load([PAPER, "gin/options/paddle.gin"], [])
    paddle = experiment.build_model()
    assert paddle.average_masks and not paddle.drop_refined_truth and paddle.drop_empty and paddle.rpn.minimum_size == 1
    assert not paddle.roi_sampler.low_quality and not experiment.objective.anchor_sampler.reassign
    np.testing.assert_allclose(1 / np.array(paddle.stages[2].target_stds), [30, 30, 15, 15])
    assert [stage.target_stds for stage in paddle.stages[:2]] == [stage.target_stds for stage in paper.stages[:2]]
    assert experiment.objective.semantic_mean == "valid"
