"""The HTC loss (paper, section 3.3): the named losses of the network's outputs, given the ground truth.

Each loss is a sum and a count, so that training can divide by the count of the global batch: losses and gradients then
do not depend on the number of replicas.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.drop_path import fold_in
from htc_tf.models.losses import SmoothL1Loss
from htc_tf.models.rpn import UNIT
from htc_tf.models.targets import AnchorSampler
from htc_tf.ops import losses
from htc_tf.ops.masks import mask_targets, select_class
from htc_tf.ranges import Each, check_ranges, choice, number, optional
from htc_tf.structures import IGNORED_LABEL, GroundTruth, Outputs, RoIs, RPNOutput, StageOutput


class Loss(NamedTuple):
    """The terms of weight * total / max(count, 1), where total and count are summed over all replicas."""

    total: tf.Tensor  # [] float32, sum over the elements that count
    count: tf.Tensor  # [] float32, number of elements that the mean is over
    weight: float

    @property
    def value(self) -> tf.Tensor:
        """[] float32, the loss where there is one replica."""
        return self.weight * self.total / tf.maximum(self.count, 1.0)


def total_where(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the sum of the values where the mask is True; values elsewhere, NaN included, have no effect."""
    return tf.reduce_sum(tf.where(mask, values, 0.0))


def count_where(mask: tf.Tensor) -> tf.Tensor:
    """Returns the number of True elements, float32."""
    return tf.reduce_sum(tf.cast(mask, tf.float32))


def check_loss(name: str, loss: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns the loss. Raises UserError if it is a class or cannot be called."""
    if isinstance(loss, type) or not callable(loss):
        raise UserError(f"HTCLoss.{name} is not a loss: {loss!r}; name one with its (), for example @GIoULoss()")
    return loss


@gin.register
@check_ranges(
    stage_weights=Each(number(0, 1000)),
    mask_weights=optional(Each(number(0, 1000))),
    semantic_weight=number(0, 1000),
    context_weight=number(0, 1000),
    assistant_weight=number(0, 1000),
    semantic_mean=choice("all", "valid"),
    rpn_beta=number(0, 1000),
    box_beta=number(0, 1000),
)
class HTCLoss:
    """Computes the losses rpn_class, rpn_box, stage1_class, stage1_box, stage1_mask, ..., semantic and context.

    A composite backbone's assistant has them all too, named assistant_rpn_class and so on.
    """

    def __init__(
        self,
        anchor_sampler: AnchorSampler | None = None,
        stage_weights: Sequence[float] = (1.0, 0.5, 0.25),
        mask_weights: Sequence[float] | None = None,
        semantic_weight: float = 0.2,
        context_weight: float = 3.0,
        assistant_weight: float = 0.5,
        semantic_mean: str = "all",
        rpn_beta: float = 1 / 9,
        box_beta: float = 1.0,
        rpn_class_loss: Callable[..., tf.Tensor] = losses.sigmoid_cross_entropy,
        class_loss: Callable[..., tf.Tensor] = losses.softmax_cross_entropy,
        box_loss: Callable[..., tf.Tensor] | None = None,
        mask_loss: Callable[..., tf.Tensor] | None = None,
    ) -> None:
        """
        Args:
            anchor_sampler: AnchorSampler; None for the paper's.
            stage_weights: floats, one weight for all losses of each stage.
            mask_weights: floats, weight of each stage's mask loss; None for `stage_weights`.
            semantic_weight: float, weight of the semantic loss.
            context_weight: float, weight of the loss of the classes that occur in an image (SCNet).
            assistant_weight: float, factor of all losses of a composite backbone's assistant (CBNetV2).
            semantic_mean: "all" divides by the number of all pixels, ignored ones included (mmdetection 3); "valid" by
                that of labeled ones (mmdetection 1, Paddle).
            rpn_beta, box_beta: float, error at which smooth L1 changes from quadratic to linear, in units of the
                deltas; 0 is L1.
            rpn_class_loss: Function of (logits, labels), loss of objectness; for example SigmoidFocalLoss.
            class_loss: Function of (logits, labels), loss of a stage's classes; for example FocalLoss.
            box_loss: Function with the arguments of SmoothL1Loss, loss of a stage's boxes; None for SmoothL1Loss with
                `box_beta`.
            mask_loss: Function of (logits, targets), loss of masks, for example BoundaryLoss; None for cross entropy.
        """
        self.anchor_sampler = anchor_sampler or AnchorSampler()
        self.stage_weights, self.semantic_weight = tuple(stage_weights), semantic_weight
        self.mask_weights, self.context_weight = tuple(mask_weights or stage_weights), context_weight
        self.assistant_weight = assistant_weight
        self.semantic_mean, self.rpn_beta, self.box_beta = semantic_mean, rpn_beta, box_beta
        self.rpn_class_loss = check_loss("rpn_class_loss", rpn_class_loss)
        self.class_loss = check_loss("class_loss", class_loss)
        self.rpn_box_loss = SmoothL1Loss(rpn_beta)
        self.box_loss = check_loss("box_loss", box_loss or SmoothL1Loss(box_beta))
        self.mask_loss = check_loss("mask_loss", mask_loss or losses.mask_cross_entropy)

    def __call__(self, outputs: Outputs, truth: GroundTruth, sizes: tf.Tensor, seed: tf.Tensor) -> dict[str, Loss]:
        """Returns {name: Loss}.

        Args:
            outputs: Outputs of a forward pass in training.
            truth: GroundTruth.
            sizes: [B, 2] float32.
            seed: [2] int32, random seed of the anchor sampler.
        """
        count = len(outputs.stages)
        for name in ("stage_weights", "mask_weights"):
            if len(getattr(self, name)) < count:
                raise UserError(f"HTCLoss.{name} = {getattr(self, name)}: give one for each of {count} stages")
        named = self.rpn(outputs.rpn, truth, sizes, seed)
        for index, stage in enumerate(outputs.stages):
            for name, loss in self.stage(stage, truth).items():
                weights = self.mask_weights if name == "mask" else self.stage_weights
                named[f"stage{index + 1}_{name}"] = loss._replace(weight=weights[index])
        if outputs.semantic is not None:
            named["semantic"] = self.semantic(outputs.semantic.logits, truth.semantic)
        if outputs.context is not None:
            named["context"] = self.context(outputs.context.logits, truth)
        if outputs.assistant is not None:
            for name, loss in self(outputs.assistant, truth, sizes, fold_in(seed, -1)).items():
                named[f"assistant_{name}"] = loss._replace(weight=self.assistant_weight * loss.weight)
        return named

    def rpn(self, rpn: RPNOutput, truth: GroundTruth, sizes: tf.Tensor, seed: tf.Tensor) -> dict[str, Loss]:
        """Returns {"rpn_class": Loss, "rpn_box": Loss}, both averaged over the sampled anchors."""
        targets = self.anchor_sampler(rpn.anchors, truth, sizes, seed)
        sampled = targets.positive | targets.negative
        objectness = self.rpn_class_loss(rpn.logits, tf.cast(targets.positive, tf.float32))
        matched = tf.gather(truth.boxes, targets.matches, batch_dims=1)  # [B, A, 4]
        distance = self.rpn_box_loss(rpn.deltas, rpn.anchors[tf.newaxis], UNIT, matched)
        count = count_where(sampled)
        return {
            "rpn_class": Loss(total_where(objectness, sampled), count, 1.0),
            "rpn_box": Loss(total_where(distance, targets.positive), count, 1.0),
        }

    def stage(self, stage: StageOutput, truth: GroundTruth) -> dict[str, Loss]:
        """Returns {"class": Loss, "box": Loss, "mask": Loss} of a StageOutput; no "mask" without mask logits."""
        rois = stage.rois
        background = stage.logits.shape[-1] - 1
        classes = tf.where(rois.positive, tf.gather(truth.classes, rois.matches, batch_dims=1), background)  # [B, N]
        matched = tf.gather(truth.boxes, rois.matches, batch_dims=1)  # [B, N, 4]
        deltas = stage.deltas
        if deltas.shape.rank == 4:  # [B, N, K, 4]: select each RoI's class, [B, N, 4]; background has no loss
            deltas = tf.gather(deltas, tf.minimum(classes, background - 1), batch_dims=2)
        distance = self.box_loss(deltas, rois.boxes, stage.target_stds, matched)
        count = count_where(rois.valid)
        named = {
            "class": Loss(total_where(self.class_loss(stage.logits, classes), rois.valid), count, 1.0),
            "box": Loss(total_where(distance, rois.positive), count, 1.0),
        }
        if stage.mask_rois is not None and stage.mask_logits is not None:
            named["mask"] = self.mask(stage.mask_rois, stage.mask_logits, truth)
        return named

    def mask(self, rois: RoIs, logits: tf.Tensor, truth: GroundTruth) -> Loss:
        """Returns the Loss of mask logits [B, M, 28, 28, K], averaged over the RoIs."""
        side = logits.shape[2]
        targets = mask_targets(truth.masks, truth.crop_boxes, rois.boxes, rois.matches, side)  # [B, M, 28, 28]
        logits = select_class(logits, tf.gather(truth.classes, rois.matches, batch_dims=1))  # [B, M, 28, 28]
        return Loss(total_where(self.mask_loss(logits, targets), rois.valid), count_where(rois.valid), 1.0)

    def semantic(self, logits: tf.Tensor, labels: tf.Tensor) -> Loss:
        """Returns the Loss of semantic logits [B, h, w, S] and labels [B, h, w] int32."""
        known = labels != IGNORED_LABEL
        cross_entropy = losses.softmax_cross_entropy(logits, tf.where(known, labels, 0))
        counted = known if self.semantic_mean == "valid" else tf.ones_like(known)
        return Loss(total_where(cross_entropy, known), count_where(counted), self.semantic_weight)

    def context(self, logits: tf.Tensor, truth: GroundTruth) -> Loss:
        """Returns the Loss of context logits [B, K], averaged over images and classes; 1 is a class in the image."""
        classes = tf.where(truth.valid, truth.classes, -1)  # [B, G]; -1 is no class
        labels = tf.reduce_max(tf.one_hot(classes, logits.shape[-1]), axis=1)  # [B, K]
        count = tf.cast(tf.size(logits), tf.float32)
        return Loss(tf.reduce_sum(losses.sigmoid_cross_entropy(logits, labels)), count, self.context_weight)
