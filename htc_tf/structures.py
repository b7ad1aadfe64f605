"""What travels along the walk: every field with its shape, unit and dtype.

Data makes a `Batch`; `models.htc` turns its images into `Outputs`, and those into `Detections`.

Conventions, stated here once:
- B images, G truth objects, A anchors, P proposals, N RoIs, D detections, K thing classes.
- Boxes are [y1, x1, y2, x2], float32, in absolute pixels of the padded input; pixel i covers [i, i + 1).
- Deltas are [dy, dx, dh, dw], in the same order as a box's axes.
- Classes are 0 ... K-1; background is K. Semantic labels are 0 ... S-1; 255 is ignored.
- Shapes are static. What is padding says `valid = False`; no field holds a sentinel value.
- Sizes are [height, width], float32, of the resized image inside its padding.
"""

from typing import Any, NamedTuple

import tensorflow as tf

IGNORED_LABEL = 255


class GroundTruth(NamedTuple):
    """What is really in the images. Crowd regions are not among the objects.

    A mask is a grid of `M x M` cells that spans its own frame, so that it survives resizing, flipping and
    cropping unchanged: a crop around the object (the input pipeline's form) and the bitmap of the whole image
    (frame = [0, 0, height, width]) are the same thing.
    """

    boxes: tf.Tensor  # [B, G, 4] float32
    classes: tf.Tensor  # [B, G] int32
    valid: tf.Tensor  # [B, G] bool
    masks: tf.Tensor  # [B, G, M, M] uint8, coverage of the cell, 0 ... 255
    crop_boxes: tf.Tensor  # [B, G, 4] float32, the box that the M x M cells span
    semantic: tf.Tensor  # [B, H / 8, W / 8] int32, the label at pixel [8 i, 8 j]


class Batch(NamedTuple):
    """One step's input."""

    images: tf.Tensor  # [B, H, W, 3] uint8 RGB, resized, zero-padded at the bottom and the right
    sizes: tf.Tensor  # [B, 2] float32
    original_sizes: tf.Tensor  # [B, 2] int32, before resizing
    image_ids: tf.Tensor  # [B] int64; -1 marks a row that only fills up an evaluation's last batch
    truth: GroundTruth


class Proposals(NamedTuple):
    """The RPN's proposals, best first."""

    boxes: tf.Tensor  # [B, P, 4] float32, clipped to the image
    scores: tf.Tensor  # [B, P] float32, probability that the box holds an object
    valid: tf.Tensor  # [B, P] bool


class RPNOutput(NamedTuple):
    """Every anchor's prediction, level after level, row, column, ratio."""

    anchors: tf.Tensor  # [A, 4] float32
    logits: tf.Tensor  # [B, A] float32, objectness
    deltas: tf.Tensor  # [B, A, 4] float32
    proposals: Proposals


class RoIs(NamedTuple):
    """The boxes that a stage pools. In inference only `boxes` and `valid` are set."""

    boxes: tf.Tensor  # [B, N, 4] float32, no gradient
    valid: tf.Tensor  # [B, N] bool
    positive: tf.Tensor | None = None  # [B, N] bool, matched to an object; positives come first
    matches: tf.Tensor | None = None  # [B, N] int32, the object matched, an index into Truth; 0 if none
    is_truth: tf.Tensor | None = None  # [B, N] bool, a truth box that was appended for training


class StageOutput(NamedTuple):
    """One stage's answer. The mask fields are None where the stage has no mask branch or no truth is given."""

    rois: RoIs
    target_stds: tuple  # of 4 floats, the units of the deltas (y, x, height, width)
    logits: tf.Tensor  # [B, N, K + 1] float32, class logits, background last
    deltas: tf.Tensor  # [B, N, 4] float32, class-agnostic, or [B, N, K, 4], in units of stds
    boxes: tf.Tensor  # [B, N, 4] float32, the RoIs refined by the deltas (of one class each), no gradient
    mask_rois: RoIs | None = None  # positives only
    mask_logits: tf.Tensor | None = None  # [B, M, 28, 28, K] float32
    class_boxes: tf.Tensor | None = None  # [B, N, K, 4] float32, refined by each class's deltas; None if class-agnostic

    @property
    def candidates(self):
        """The boxes that detections are chosen from: [B, N, 4], shared by the classes, or [B, N, K, 4]."""
        return self.boxes if self.class_boxes is None else self.class_boxes


class SemanticOutput(NamedTuple):
    """The semantic branch at stride 8."""

    logits: tf.Tensor  # [B, H / 8, W / 8, S] float32
    embedding: tf.Tensor  # [B, H / 8, W / 8, C], added to the features of every RoI


class Outputs(NamedTuple):
    """One forward pass: `models.htc_loss` computes losses from it, `HTC.detect` detections.

    A traced graph computes only the fields that its caller reads.
    """

    pyramid: dict  # {level: [B, H / 2^level, W / 2^level, C]}, P2 ... P6
    rpn: RPNOutput
    stages: tuple  # of StageOutput, one per stage of the cascade
    valid: tf.Tensor  # [B, N] bool, the last stage's boxes that may become detections
    features: Any  # what `models.roi_pooler.RoIPooler` pools RoIs from
    semantic: SemanticOutput | None = None


class Detections(NamedTuple):
    """The answer, best first, in pixels of the padded input."""

    boxes: tf.Tensor  # [B, D, 4] float32
    scores: tf.Tensor  # [B, D] float32
    classes: tf.Tensor  # [B, D] int32
    valid: tf.Tensor  # [B, D] bool
    masks: tf.Tensor | None = None  # [B, D, 28, 28] float32, probability inside the box, of the detection's class
    stage_masks: tf.Tensor | None = None  # [B, D, S, 28, 28] float32, as `masks`, from each of S stages
