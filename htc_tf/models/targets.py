"""Targets: which object an anchor or a RoI is to find, and which of them a loss looks at.

`sample_rois` is the walk's first question in training; `sample_anchors` serves the objective.
"""

from typing import NamedTuple

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import anchors as anchor_ops
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.matching import match, sample, subsample_randomly
from htc_tf.ranges import FLAG, FRACTION, check_range, check_ranges, number, optional, whole
from htc_tf.structures import RoIs


class AnchorTargets(NamedTuple):
    positive: tf.Tensor  # [B, A] bool
    negative: tf.Tensor  # [B, A] bool
    matches: tf.Tensor  # [B, A] int32


def check_positives(name, limit, fraction):
    if int(limit * fraction) < 1:
        raise UserError(f"{name}.positive_fraction = {fraction!r} of {name}.limit = {limit} is no sample: give more")


@gin.register
@check_ranges(
    positive_iou=FRACTION,
    negative_iou=FRACTION,
    minimum_iou=FRACTION,
    limit=whole(1),
    positive_fraction=number(above=0, most=1),
    inside_only=FLAG,
    reassign=FLAG,
)
class AnchorSampler:
    """Which anchors the RPN learns from (Ren et al., arXiv:1506.01497, section 3.1.2)."""

    def __init__(
        self,
        positive_iou=0.7,
        negative_iou=0.3,
        minimum_iou=0.3,
        limit=256,
        positive_fraction=0.5,
        inside_only=True,
        reassign=True,
        choose=subsample_randomly,
    ):
        """
        Args:
            positive_iou, negative_iou: an anchor is positive from the one, negative below the other.
            minimum_iou: every object's best anchors are positive too, from this IoU.
            limit: anchors an image that take part.
            positive_fraction: of them, at most.
            inside_only: whether only anchors inside the unpadded image take part, or all that are centred in the image
                padded to multiples of 32.
            reassign: whether an object's best anchor learns that object (mmdetection), or the one that it overlaps
                most, which may be another (Paddle).
            choose: seed -> a rule that picks at most so many of the candidates (see ops.matching).
        """
        check_range("AnchorSampler.negative_iou", negative_iou, number(0, positive_iou))
        check_positives("AnchorSampler", limit, positive_fraction)
        self.thresholds = (positive_iou, negative_iou, minimum_iou)
        self.limit, self.positive_fraction = limit, positive_fraction
        self.inside_only, self.reassign, self.choose = inside_only, reassign, choose

    def __call__(self, anchors, truth, sizes, seed):
        """anchors [A, 4], truth, sizes [B, 2], seed int32 [2] -> AnchorTargets."""
        candidates = (anchor_ops.inside if self.inside_only else anchor_ops.centred_inside)(anchors, sizes)
        overlaps = box_ops.iou(anchors[tf.newaxis], truth.boxes)
        matches = match(overlaps, truth.valid, *self.thresholds, reassign=self.reassign, candidates=candidates)
        positive, negative = sample(matches.label, self.limit, self.positive_fraction, self.choose(seed))
        return AnchorTargets(positive, negative, matches.index)


@gin.register
@check_ranges(
    limit=whole(1),
    positive_fraction=number(above=0, most=1),
    mask_limit=optional(whole(1)),
    low_quality=FLAG,
)
class RoISampler:
    """Which boxes a stage learns from: matched at the stage's IoU, positives first, the truth among them."""

    def __init__(self, limit=512, positive_fraction=0.25, mask_limit=None, low_quality=True, choose=subsample_randomly):
        """
        Args:
            limit: RoIs an image.
            positive_fraction: of them, at most.
            mask_limit: positives an image that the mask branch learns from; all of them if None.
            low_quality: whether a box that overlaps an object best of all boxes, and enough, is given to it even if it
                overlaps another object more (mmdetection; Paddle does not).
            choose: seed -> a rule that picks at most so many of the candidates (see ops.matching).
        """
        check_positives("RoISampler", limit, positive_fraction)
        self.limit, self.positive_fraction = limit, positive_fraction
        self.low_quality, self.choose = low_quality, choose
        positives = int(limit * positive_fraction)
        self.mask_limit = positives if mask_limit is None else min(mask_limit, positives)

    def __call__(self, boxes, valid, truth, iou_threshold, seed):
        """
        Args:
            boxes, valid: [B, P, 4], [B, P], without gradient.
            truth: Truth.
            iou_threshold: positive from here, negative below.
            seed: int32 [2].
        Returns:
            RoIs with N = limit.
        """
        overlaps = box_ops.iou(boxes, truth.boxes)
        thresholds = [iou_threshold] * 3
        matches = match(overlaps, truth.valid, *thresholds, low_quality=self.low_quality, candidates=valid)
        # The truth joins only now, each matched to itself: matched with the others, it would be every object's best
        # box, and no object would take the proposal that overlaps it best.
        own = tf.broadcast_to(tf.range(truth.boxes.shape[1]), tf.shape(truth.valid))
        boxes = tf.concat([truth.boxes, boxes], axis=1)
        label = tf.concat([tf.where(truth.valid, 1, -1), matches.label], axis=1)
        index = tf.concat([own, matches.index], axis=1)
        positive, negative = sample(label, self.limit, self.positive_fraction, self.choose(seed))
        # Stable among equals, so that positives keep their order and come first.
        rank = 2 * tf.cast(positive, tf.int32) + tf.cast(negative, tf.int32)
        missing = max(0, self.limit - rank.shape[1])
        rank, boxes, positive, index = (
            tf.pad(x, [[0, 0], [0, missing]] + [[0, 0]] * (len(x.shape) - 2)) for x in (rank, boxes, positive, index)
        )
        rank, order = tf.math.top_k(rank, self.limit)
        chosen = rank > 0

        def pick(x):
            return tf.gather(x, order, batch_dims=1)

        return RoIs(
            boxes=tf.where(chosen[..., tf.newaxis], pick(boxes), 0.0),
            valid=chosen,
            positive=pick(positive),
            matches=tf.where(chosen, pick(index), 0),
            is_truth=chosen & (order < truth.boxes.shape[1]),
        )

    def positives(self, rois: RoIs):
        """The positives alone, as the mask branch takes them: N = mask_limit."""
        first = RoIs(*(x[:, : self.mask_limit] for x in rois))
        return first._replace(valid=first.positive)
