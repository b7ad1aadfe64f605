"""The data structures of the detector, with the shape, dtype and unit of every field.

The input pipeline yields a `Batch`; `models.htc` turns its images into `Outputs`, and those into `Detections`.

Conventions:
- B images, G ground-truth objects, A anchors, P proposals, N RoIs, M mask RoIs, D detections, K thing classes,
  S semantic labels.
- Boxes are [y1, x1, y2, x2], float32, in absolute pixels of the padded input; pixel i covers [i, i + 1).
- Deltas are [dy, dx, dh, dw], in the order of a box's axes.
- Classes are 0 ... K-1; background is K. Semantic labels are 0 ... S-1; 255 is ignored.
- Shapes are static. Padding has `valid = False`; no field holds a sentinel value.
- Sizes are [height, width], float32, of the resized image without its padding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

IGNORED_LABEL = 255
SEMANTIC_STRIDE = 8  # pixels of the input between semantic labels, and between the logits
LARGEST_STRIDE = 32  # pixels of the input between the cells of C5; the sides of a padded image are multiples of it
FeatureMaps: TypeAlias = dict[int, tf.Tensor]  # {level: [B, H / 2^level, W / 2^level, C]}, of a backbone or a neck


class GroundTruth(NamedTuple):
    """The annotations of a batch, without crowd regions.

    A mask is a grid of cells over its crop box. Resizing, flipping or cropping the image changes the crop box alone and
    not the cells. The input pipeline crops around the object; a bitmap of the whole image is a mask with the crop box
    [0, 0, height, width].
    """

    boxes: tf.Tensor  # [B, G, 4] float32
    classes: tf.Tensor  # [B, G] int32
    valid: tf.Tensor  # [B, G] bool
    masks: tf.Tensor  # [B, G, cells, cells] uint8, coverage of each cell, 0 ... 255
    crop_boxes: tf.Tensor  # [B, G, 4] float32, the box that a mask's cells cover
    semantic: tf.Tensor  # [B, H / 8, W / 8] int32, labels of the pixels [8 i, 8 j]


class Batch(NamedTuple):
    """The input of one step."""

    images: tf.Tensor  # [B, H, W, 3] uint8 RGB, resized, zero-padded at the bottom and the right
    sizes: tf.Tensor  # [B, 2] float32
    original_sizes: tf.Tensor  # [B, 2] int32, before resizing
    image_ids: tf.Tensor  # [B] int64; -1 in the rows that pad the last batch of an evaluation
    truth: GroundTruth


class Proposals(NamedTuple):
    """The proposals of the RPN, best first."""

    boxes: tf.Tensor  # [B, P, 4] float32, clipped to the image
    scores: tf.Tensor  # [B, P] float32, probability that the box holds an object
    valid: tf.Tensor  # [B, P] bool


class RPNOutput(NamedTuple):
    """The RPN's predictions for all anchors, in the order level, row, column, ratio."""

    anchors: tf.Tensor  # [A, 4] float32
    logits: tf.Tensor  # [B, A] float32, objectness
    deltas: tf.Tensor  # [B, A, 4] float32
    proposals: Proposals


class RoIs(NamedTuple):
    """The boxes whose features a stage pools. In inference only `boxes` and `valid` are set."""

    boxes: tf.Tensor  # [B, N, 4] float32, no gradient
    valid: tf.Tensor  # [B, N] bool
    positive: tf.Tensor | None = None  # [B, N] bool, matched to an object; positives come first
    matches: tf.Tensor | None = None  # [B, N] int32, index of the matched object in GroundTruth; 0 if none
    is_truth: tf.Tensor | None = None  # [B, N] bool, ground-truth boxes that were appended for training


class StageOutput(NamedTuple):
    """The outputs of one stage. The mask fields are None in inference, and without a mask branch."""

    rois: RoIs
    target_stds: Sequence[float]  # 4 floats, units of the deltas (y, x, height, width)
    logits: tf.Tensor  # [B, N, K + 1] float32, class logits, background last
    deltas: tf.Tensor  # [B, N, 4] float32, class-agnostic, or [B, N, K, 4], in units of target_stds
    boxes: tf.Tensor  # [B, N, 4] float32, RoIs refined by the deltas (of one class each), no gradient
    mask_rois: RoIs | None = None  # M positives
    mask_logits: tf.Tensor | None = None  # [B, M, 28, 28, K] float32
    class_boxes: tf.Tensor | None = None  # [B, N, K, 4] float32, refined by each class's deltas; None if class-agnostic

    @property
    def candidates(self) -> tf.Tensor:
        """The boxes that NMS selects from: [B, N, 4], shared by the classes, or [B, N, K, 4]."""
        return self.boxes if self.class_boxes is None else self.class_boxes


class SemanticOutput(NamedTuple):
    """The outputs of the semantic branch, at stride 8."""

    logits: tf.Tensor  # [B, H / 8, W / 8, S] float32
    embedding: tf.Tensor  # [B, H / 8, W / 8, C], added to the features of every RoI


class ContextOutput(NamedTuple):
    """The outputs of SCNet's global context head."""

    logits: tf.Tensor  # [B, K] float32, of the classes that occur in the image
    embedding: tf.Tensor  # [B, C] float32, added to the features of every RoI


class Outputs(NamedTuple):
    """The outputs of one forward pass: `HTCLoss` computes losses from them, `HTC.detect` detections.

    A traced graph computes only the fields that its caller reads.
    """

    pyramid: FeatureMaps  # P2 ... P6
    rpn: RPNOutput
    stages: tuple[StageOutput, ...]  # of each stage of the cascade
    valid: tf.Tensor  # [B, N] bool, boxes of the last stage that may become detections
    features: Any  # prepared feature maps that `models.roi_pooler.RoIPooler` pools RoIs from
    semantic: SemanticOutput | None = None
    context: ContextOutput | None = None
    assistant: "Outputs | None" = None  # of a composite backbone's assistant in training, for its losses


class Detections(NamedTuple):
    """The detected objects of a batch, best first, in pixels of the padded input."""

    boxes: tf.Tensor  # [B, D, 4] float32
    scores: tf.Tensor  # [B, D] float32
    classes: tf.Tensor  # [B, D] int32
    valid: tf.Tensor  # [B, D] bool
    masks: tf.Tensor | None = None  # [B, D, 28, 28] float32, probability in each cell of the box
    stage_masks: tf.Tensor | None = None  # [B, D, heads, 28, 28] float32, as `masks`, from each mask head
