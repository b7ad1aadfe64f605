"""What sampling gives the heads to learn from: shares that tell a sound training from a stalled one.

Computed by `training.gradients` beside the losses, from the same outputs, where a step is logged; never learnt from.
"""

import tensorflow as tf

from htc_tf.models.htc_loss import Loss, count_where, total_where
from htc_tf.ops import boxes as box_ops

RECALL_IOU = 0.5


def watch_where(wanted, outputs, truth):
    """`watch` where `wanted`, a [] bool tensor, is true; elsewhere the same names, with sums and counts of 0."""
    stages = range(1, len(outputs.stages) + 1)
    names = ["watch/proposal_recall", *(f"watch/stage{t}_{what}" for t in stages for what in ("foreground", "iou"))]

    def look():
        named = watch(outputs, truth)
        return [(named[name].total, named[name].count) for name in names]

    sums = tf.cond(wanted, look, lambda: [(tf.constant(0.0), tf.constant(0.0))] * len(names))
    # Without this the condition would hand its branches' insides to a gradient that nobody takes, which XLA refuses.
    sums = tf.nest.map_structure(tf.stop_gradient, sums)
    return {name: Loss(*pair, 1.0) for name, pair in zip(names, sums, strict=True)}


def watch(outputs, truth):
    """Outputs, Truth -> {name: Loss}, sums and counts that replicas and micro-batches add.

    `watch/proposal_recall`: share of the objects that a proposal overlaps by at least 0.5.
    `watch/stageT_foreground`: share of positives among the sampled RoIs.
    `watch/stageT_iou`: mean overlap of the positives with their objects; the truth boxes among them do not count.
    """
    proposals = outputs.rpn.proposals
    overlaps = box_ops.iou(tf.stop_gradient(proposals.boxes), truth.boxes)
    best = tf.reduce_max(tf.where(proposals.valid[..., tf.newaxis], overlaps, 0.0), axis=1)
    found = (best >= RECALL_IOU) & truth.valid
    named = {"watch/proposal_recall": Loss(count_where(found), count_where(truth.valid), 1.0)}
    for number, stage in enumerate(outputs.stages, start=1):
        rois = stage.rois
        matched = tf.gather(truth.boxes, rois.matches, batch_dims=1)
        overlap = box_ops.iou(rois.boxes[..., tf.newaxis, :], matched[..., tf.newaxis, :])[..., 0, 0]
        counted = rois.positive & ~rois.is_truth
        named[f"watch/stage{number}_foreground"] = Loss(count_where(rois.positive), count_where(rois.valid), 1.0)
        named[f"watch/stage{number}_iou"] = Loss(total_where(overlap, counted), count_where(counted), 1.0)
    return named
