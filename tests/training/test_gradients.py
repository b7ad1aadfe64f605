"""Sampling metrics: expected shares of a few boxes, and compilation beside a loss that has a gradient."""

import tensorflow as tf

from htc_tf.ops import boxes as box_ops
from htc_tf.structures import GroundTruth, Outputs, Proposals, RoIs, RPNOutput, StageOutput
from htc_tf.training.gradients import sampling_metrics, sampling_metrics_where

NOTHING = Outputs(*[None] * len(Outputs._fields))


def tensor(values, dtype=tf.float32):
    return tf.constant(values, dtype)[tf.newaxis]


def numbers(named):
    return {name: (float(loss.total), float(loss.count)) for name, loss in named.items()}


def test_golden_shares():
    truth = GroundTruth(
        boxes=tensor([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]]),
        classes=None,
        valid=tensor([True, True, False], tf.bool),
        masks=None,
        crop_boxes=None,
        semantic=None,
    )
    # The first object is covered by half, the second only by a proposal that is padding.
    proposals = Proposals(tensor([[0, 0, 5, 10], [20, 20, 30, 30]]), None, tensor([True, False], tf.bool))
    rois = RoIs(
        # A ground-truth box, positives of IoU 1/2 with the first and 1/4 with the second object, a negative, padding.
        boxes=tensor([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 25, 25], [50, 50, 60, 60], [0, 0, 0, 0]]),
        valid=tensor([True, True, True, True, False], tf.bool),
        positive=tensor([True, True, True, False, False], tf.bool),
        matches=tensor([0, 0, 1, 0, 0], tf.int32),
        is_truth=tensor([True, False, False, False, False], tf.bool),
    )
    stage = StageOutput(rois, None, None, None, None)
    outputs = NOTHING._replace(rpn=RPNOutput(None, None, None, proposals), stages=(stage, stage))
    wanted = {
        "sampling/proposal_recall": (1, 2),
        "sampling/stage1_foreground": (3, 4),
        "sampling/stage1_iou": (0.75, 2),
        "sampling/stage2_foreground": (3, 4),
        "sampling/stage2_iou": (0.75, 2),
    }
    assert (
        numbers(sampling_metrics(outputs, truth))
        == numbers(sampling_metrics_where(tf.constant(True), outputs, truth))
        == wanted
    )
    assert numbers(sampling_metrics_where(tf.constant(False), outputs, truth)) == dict.fromkeys(wanted, (0, 0))


def test_sampling_metrics_compile_beside_a_loss():
    """In one function that XLA compiles and that has a gradient, as in `training.gradients`."""
    truth = GroundTruth(tensor([[0, 0, 10, 10]]), None, tensor([True], tf.bool), None, None, None)
    shift = tf.Variable(1.0)

    @tf.function(jit_compile=True, autograph=False)
    def forward(wanted):
        boxes = tensor([[0, 0, 10, 10]]) + shift
        outputs = NOTHING._replace(rpn=RPNOutput(None, None, None, Proposals(boxes, None, tensor([True], tf.bool))))
        rois = RoIs(boxes, *(tensor([flag], tf.bool) for flag in (True, True)), tensor([0], tf.int32))
        stage = StageOutput(rois._replace(is_truth=tensor([False], tf.bool)), None, None, None, None)
        seen = sampling_metrics_where(wanted, outputs._replace(stages=(stage,)), truth)
        return tf.reduce_sum(box_ops.iou(boxes, truth.boxes)), seen

    for wanted, overlap in ((True, 81 / 119), (False, 0.0)):
        with tf.GradientTape() as tape:
            loss, seen = forward(tf.constant(wanted))
        # The metrics have no gradient, even if one is asked for.
        assert tape.gradient([loss, seen["sampling/stage1_iou"].total], shift) < 0
        tf.debugging.assert_near(seen["sampling/stage1_iou"].total, overlap)
