"""Trace of one forward pass: the output of every step for one image, and the proposal that each detection comes from.

A row is the same box from the proposals to the last stage, which is how an object is followed.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.inference.semantic_map import enlarge
from htc_tf.ops.boxes import iou
from htc_tf.structures import Detections

TOLERANCE = 1e-3  # pixels; NMS returns its input boxes, so a detection equals one of them


class Trace(NamedTuple):
    """One forward pass. Boxes are in pixels of the resized image; n proposals, S stages, D detections, best first."""

    original: np.ndarray  # [H, W, 3] uint8, the original image
    image: np.ndarray  # [h, w, 3] uint8, resized: the network's input without padding
    padded: tuple  # height and width with padding
    levels: dict  # {level: [h / 2^level, w / 2^level] float32}, root mean square over the channels
    scores: np.ndarray  # [n] float32, objectness
    boxes: np.ndarray  # [1 + S, n, 4] float32: the proposals, then each stage's refined boxes
    logits: np.ndarray  # [S, n, K + 1] float32, class logits of each stage
    labels: np.ndarray | None  # [h, w] uint8, labels of the semantic branch
    detections: Detections  # NumPy arrays without the batch axis, [D, ...]
    rows: np.ndarray  # [D] int, the proposal that each detection comes from
    masks: np.ndarray | None  # [heads, D, 28, 28] float32, each mask head's mask in the detection's box
    mask_stages: tuple  # ints, the stages 1, 2, ... that have a mask head
    thresholds: tuple  # S floats, the IoU thresholds that the stages were trained with
    interleaved: bool  # this and the following: options of `models.htc.HTC`
    mask_info_flow: bool
    average_masks: bool
    relay: bool  # True if the mask head receives features of the box head
    global_context: bool  # True if all heads receive one vector of the whole image

    @property
    def stages(self):
        return len(self.logits)

    @property
    def objects(self):
        """Indices of detections, one for each proposal: a box of several classes counts once, by its best score."""
        return np.sort(np.unique(self.rows, return_index=True)[1])

    def probability(self, stage, detection):
        """Returns a detection's class probability at stage 1, 2, ..., or its objectness for stage 0."""
        row = self.rows[detection]
        if stage == 0:
            return float(self.scores[row])
        return float(softmax(self.logits[stage - 1, row])[self.detections.classes[detection]])

    def overlap(self, step):
        """Returns the mean IoU of the objects' boxes at a step (0: proposals) with their final boxes, or None."""
        rows = self.rows[self.objects]
        pairs = iou(tf.constant(self.boxes[step, rows]), tf.constant(self.boxes[-1, rows]))
        return float(tf.reduce_mean(tf.linalg.diag_part(pairs))) if len(rows) else None


def record_trace(detector, image, threshold):
    """Runs the model once on an image and keeps the output of every step.

    Args:
        detector: An `inference.detector.Detector`. Test-time augmentation is not used.
        image: [H, W, 3] uint8 RGB.
        threshold: Lowest score of a detection.
    Returns:
        A Trace.
    """
    model = detector.model
    images, sizes = detector.prepare(image)
    outputs, detections = tf.function(_forward(model), autograph=False)(images, sizes)
    rpn, stages, masks = outputs.rpn, outputs.stages, detections.stage_masks
    height, width = sizes[0].numpy().astype(int)
    there = rpn.proposals.valid[0].numpy()
    boxes = np.stack([rpn.proposals.boxes[0], *(stage.boxes[0] for stage in stages)])[:, there]
    kept = detections.valid[0].numpy() & (detections.scores[0].numpy() >= threshold)
    found = Detections(*(None if field is None else field[0].numpy()[kept] for field in detections))
    found = found._replace(stage_masks=None)
    final = model.postprocess.scores(stages)[0].numpy()[there]
    return Trace(
        original=image,
        image=images[0, :height, :width].numpy(),
        padded=tuple(images.shape[1:3]),
        levels={level: _activity(maps[0], level, height, width) for level, maps in sorted(outputs.pyramid.items())},
        scores=rpn.proposals.scores[0].numpy()[there],
        boxes=boxes,
        logits=np.stack([stage.logits[0] for stage in stages])[:, there],
        labels=None if outputs.semantic is None else enlarge(outputs.semantic.logits[0], (height, width), tf.ones(2)),
        detections=found,
        rows=find_rows(found, stages[-1].candidates[0].numpy()[there], final),
        masks=None if masks is None else masks[0].numpy()[kept].swapaxes(0, 1),
        mask_stages=tuple(i for i, stage in enumerate(model.stages, 1) if model.masks and stage.mask_head is not None),
        thresholds=tuple(stage.iou_threshold for stage in model.stages),
        interleaved=model.interleaved,
        mask_info_flow=model.mask_info_flow,
        average_masks=model.average_masks,
        relay=model.relay is not None,
        global_context=model.context_head is not None,
    )


def _forward(model):
    """Returns a function: images, sizes to Outputs and Detections, without the features that RoIs are pooled from."""

    def forward(images, sizes):
        outputs = model(images, sizes)
        return outputs._replace(features=None), model.detect(outputs)

    return forward


def find_rows(detections, boxes, scores):
    """Finds the last stage's box that each detection comes from.

    Args:
        detections: Detections of NumPy arrays, [D, ...].
        boxes: [n, 4], the last stage's boxes, or [n, K, 4], one for each class.
        scores: [n, K] class scores, which decide between equal boxes.
    Returns:
        [D] int, indices of boxes.
    """
    if not len(detections.boxes):
        return np.zeros(0, int)
    boxes = boxes if boxes.ndim == 2 else boxes[:, detections.classes].swapaxes(0, 1)
    apart = np.abs(detections.boxes[:, None] - boxes).max(axis=-1)  # [D, n]
    same = apart <= apart.min(axis=1, keepdims=True) + TOLERANCE
    return np.where(same, scores.T[detections.classes], np.float32(-1)).argmax(axis=1).astype(int)


def softmax(logits):
    """Returns the probabilities of logits [..., K + 1]."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _activity(maps, level, height, width):
    """Returns the root mean square over the channels of a level [h, w, C], without padding: [h', w']."""
    rows, columns = (-(-int(side) // 2**level) for side in (height, width))
    return tf.sqrt(tf.reduce_mean(tf.square(tf.cast(maps[:rows, :columns], tf.float32)), axis=-1)).numpy()
