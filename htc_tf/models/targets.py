"""Matching and sampling in training: `RoISampler` for the stages of the cascade, `AnchorSampler` for the RPN's loss."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import anchors as anchor_ops
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.matching import Choose, match, sample, subsample_randomly
from htc_tf.ranges import FLAG, FRACTION, check_range, check_ranges, number, optional, whole
from htc_tf.structures import GroundTruth, RoIs


class AnchorTargets(NamedTuple):
    """The sampled anchors of the RPN's loss."""

    positive: tf.Tensor  # [B, A] bool
    negative: tf.Tensor  # [B, A] bool
    matches: tf.Tensor  # [B, A] int32, index of the matched object; 0 if none


def check_positives(name: str, limit: int, fraction: float) -> None:
    if int(limit * fraction) < 1:
        raise UserError(f"{name}.positive_fraction = {fraction!r} of {name}.limit = {limit} is less than 1: give more")


@gin.register
@check_ranges(
    positive_iou=number(above=0, maximum=1),
    negative_iou=FRACTION,
    minimum_iou=number(above=0, maximum=1),  # at 0, an object that no anchor overlaps would take all of them
    limit=whole(1),
    positive_fraction=number(above=0, maximum=1),
    inside_only=FLAG,
    reassign=FLAG,
)
class AnchorSampler:
    """Matches anchors to objects and samples anchors for the RPN's loss (arXiv:1506.01497, section 3.1.2)."""

    def __init__(
        self,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        minimum_iou: float = 0.3,
        limit: int = 256,
        positive_fraction: float = 0.5,
        inside_only: bool = True,
        reassign: bool = True,
        choose: Callable[[tf.Tensor], Choose] = subsample_randomly,
    ) -> None:
        """
        Args:
            positive_iou: float, smallest IoU with an object of a positive anchor.
            negative_iou: float, IoU below which an anchor is negative.
            minimum_iou: float, smallest IoU at which the best anchors of an object are positive too.
            limit: int, sampled anchors of an image, at most.
            positive_fraction: float, largest fraction of positives among `limit`.
            inside_only: If True, only anchors inside the unpadded image take part; if False, all that are centered in
                the image padded to multiples of 32.
            reassign: If True, an object's best anchor is trained to find that object (mmdetection); if False, the
                object that it overlaps most, which may be another (Paddle).
            choose: Function from a seed to a sampling rule, as in `ops.matching`.
        """
        check_range("AnchorSampler.negative_iou", negative_iou, number(0, positive_iou))
        check_positives("AnchorSampler", limit, positive_fraction)
        self.thresholds = (positive_iou, negative_iou, minimum_iou)
        self.limit, self.positive_fraction = limit, positive_fraction
        self.inside_only, self.reassign, self.choose = inside_only, reassign, choose

    def __call__(self, anchors: tf.Tensor, truth: GroundTruth, sizes: tf.Tensor, seed: tf.Tensor) -> AnchorTargets:
        """Returns the AnchorTargets of a batch.

        Args:
            anchors: [A, 4] float32.
            truth: GroundTruth.
            sizes: [B, 2] float32.
            seed: [2] int32.
        """
        candidates = (anchor_ops.inside if self.inside_only else anchor_ops.center_inside)(anchors, sizes)
        overlaps = box_ops.iou(anchors[tf.newaxis], truth.boxes)  # [B, A, G]
        matches = match(overlaps, truth.valid, *self.thresholds, reassign=self.reassign, candidates=candidates)
        positive, negative = sample(matches.label, self.limit, self.positive_fraction, self.choose(seed))
        return AnchorTargets(positive, negative, matches.index)


@gin.register
@check_ranges(
    limit=whole(1),
    positive_fraction=number(above=0, maximum=1),
    mask_limit=optional(whole(1)),
    low_quality=FLAG,
    append_truth=FLAG,
)
class RoISampler:
    """Matches boxes to objects at a stage's IoU threshold and samples RoIs from them and the ground-truth boxes."""

    def __init__(
        self,
        limit: int = 512,
        positive_fraction: float = 0.25,
        mask_limit: int | None = None,
        low_quality: bool = True,
        append_truth: bool = True,
        choose: Callable[[tf.Tensor], Choose] = subsample_randomly,
    ) -> None:
        """
        Args:
            limit: int, RoIs of an image, N.
            positive_fraction: float, largest fraction of positives among them.
            mask_limit: int, positives of an image that its mask branch is trained on, drawn from all; None for all.
            low_quality: If True, the box with the largest IoU of an object, if at the threshold, is matched to it even
                if it overlaps another object more (mmdetection; Paddle does not).
            append_truth: If True, the ground-truth boxes are candidates too.
            choose: Function from a seed to a sampling rule, as in `ops.matching`.
        """
        check_positives("RoISampler", limit, positive_fraction)
        self.limit, self.positive_fraction = limit, positive_fraction
        self.low_quality, self.append_truth, self.choose = low_quality, append_truth, choose
        positives = int(limit * positive_fraction)
        self.mask_limit = positives if mask_limit is None else min(mask_limit, positives)

    def __call__(
        self, boxes: tf.Tensor, valid: tf.Tensor, truth: GroundTruth, iou_threshold: float, seed: tf.Tensor
    ) -> RoIs:
        """Returns RoIs with N = limit: positives first, and among them those that the mask branch takes.

        Args:
            boxes: [B, P, 4] float32, without gradient.
            valid: [B, P] bool.
            truth: GroundTruth.
            iou_threshold: float, smallest IoU of a positive; RoIs below are negative.
            seed: [2] int32.
        """
        rois = self._sample(boxes, valid, truth.boxes, truth.valid, tf.constant(iou_threshold, tf.float32), seed)
        return rois._replace(boxes=tf.stop_gradient(rois.boxes))

    @tf.function(autograph=False)  # traced once for all stages with equal shapes
    def _sample(self, boxes, valid, truth_boxes, truth_valid, iou_threshold, seed):
        """Returns RoIs; arguments as in `__call__`, but a tensor for the threshold."""
        overlaps = box_ops.iou(boxes, truth_boxes)  # [B, P, G]
        thresholds = [iou_threshold] * 3
        matches = match(overlaps, truth_valid, *thresholds, low_quality=self.low_quality, candidates=valid)
        # Ground-truth boxes are appended after matching, each matched to itself: matched with the others, each would be
        # its object's best box, and no low-quality match would be left for a proposal.
        appended, label, index = 0, matches.label, matches.index
        if self.append_truth:
            appended = truth_boxes.shape[1]  # G
            own = tf.broadcast_to(tf.range(appended), tf.shape(truth_valid))  # [B, G]
            boxes = tf.concat([truth_boxes, boxes], axis=1)  # [B, G + P, 4]
            label = tf.concat([tf.where(truth_valid, 1, -1), label], axis=1)
            index = tf.concat([own, index], axis=1)
        positive, negative = sample(label, self.limit, self.positive_fraction, self.choose(seed))
        # 2 for positives, 1 for negatives, 0 for the rest: top_k puts positives first and is stable among equals. The
        # ground-truth boxes are the first of them: a mask branch that took these would see few boxes of the cascade.
        rank = 2 * tf.cast(positive, tf.int32) + tf.cast(negative, tf.int32)
        if self.mask_limit < int(self.limit * self.positive_fraction):
            with_mask = self.choose(tf.random.experimental.stateless_fold_in(seed, 1))(positive, self.mask_limit)
            rank += tf.cast(with_mask, tf.int32)
        missing = max(0, self.limit - rank.shape[1])
        rank, boxes, positive, index = (
            tf.pad(x, [[0, 0], [0, missing]] + [[0, 0]] * (len(x.shape) - 2)) for x in (rank, boxes, positive, index)
        )  # [B, max(G + P, N), ...]
        rank, order = tf.math.top_k(rank, self.limit)  # [B, N]
        chosen = rank > 0

        def pick(x):
            return tf.gather(x, order, batch_dims=1)

        return RoIs(
            boxes=tf.where(chosen[..., tf.newaxis], pick(boxes), 0.0),
            valid=chosen,
            positive=pick(positive),
            matches=tf.where(chosen, pick(index), 0),
            is_truth=chosen & (order < appended),  # the first G of the G + P boxes
        )

    def positives(self, rois: RoIs) -> RoIs:
        """Returns the positives alone, the RoIs of the mask branch, with N = mask_limit."""
        first = RoIs(*(x[:, : self.mask_limit] for x in rois))  # type: ignore[index]  # all are set in training
        return first._replace(valid=first.positive)
