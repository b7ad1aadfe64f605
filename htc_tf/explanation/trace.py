"""One photo's walk through the model, recorded: what each step gives, cut to the photo, and which rows become objects.

Before: `inference.restore` gave a Detector. After: `explanation.panels` draws what is here. The steps are those of
`models.htc`; a row is the same box from the proposals to the last stage, which is how an object is followed.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.inference.semantic_map import enlarge
from htc_tf.ops.boxes import iou
from htc_tf.structures import Detections

SAME = 1e-3  # pixels: NMS hands boxes through, and nothing else is so near


class Walk(NamedTuple):
    """All boxes are in pixels of the resized image, [h, w]; n proposals, S stages, D detections, best first."""

    photo: np.ndarray  # [H, W, 3] uint8, as it was given
    image: np.ndarray  # [h, w, 3] uint8, resized: what the network sees
    padded: tuple  # height and width with padding
    levels: dict  # {level: [h / 2^level, w / 2^level] float32}, root of the channels' mean square
    scores: np.ndarray  # [n] float32, objectness
    boxes: np.ndarray  # [1 + S, n, 4] float32: the proposals, then what each stage makes of them
    logits: np.ndarray  # [S, n, K + 1] float32, each stage's own
    labels: np.ndarray | None  # [h, w] uint8, the semantic branch's
    detections: Detections  # of NumPy arrays without a batch, [D, ...]; boxes in pixels of the resized image
    rows: np.ndarray  # [D] int, the row that each detection was
    masks: np.ndarray | None  # [S, D, 28, 28] float32, each stage's, in the detection's box
    thresholds: tuple  # of S floats: the IoU from which a box was an object for a stage, in training
    interleaved: bool  # the switches of `models.htc` by these names
    mask_info_flow: bool
    average_masks: bool

    @property
    def stages(self):
        return len(self.logits)

    @property
    def objects(self):
        """Indices of detections, one for each row: a box that is of several classes counts once, by its best."""
        return np.sort(np.unique(self.rows, return_index=True)[1])

    def probability(self, stage, detection):
        """What the class scores that stage 1, 2 ... alone, or for 0 the RPN, give a detection's row."""
        row = self.rows[detection]
        if stage == 0:
            return float(self.scores[row])
        return float(softmax(self.logits[stage - 1, row])[self.detections.classes[detection]])

    def overlap(self, step):
        """Mean IoU of the objects' boxes at a step (0: the proposals) with those that they end with; None without."""
        rows = self.rows[self.objects]
        pairs = iou(tf.constant(self.boxes[step, rows]), tf.constant(self.boxes[-1, rows]))
        return float(tf.reduce_mean(tf.linalg.diag_part(pairs))) if len(rows) else None


def record_walk(detector, photo, threshold):
    """Takes a photo through the model and keeps what each step gives.

    Args:
        detector: inference.Detector. Test-time augmentation is left out: it is one look at the photo.
        photo: [H, W, 3] uint8 RGB.
        threshold: lowest score of a detection.
    Returns:
        A Walk.
    """
    model = detector.model
    images, sizes = detector.prepare(photo)
    outputs, detections = tf.function(_forward(model), autograph=False)(images, sizes)
    rpn, stages, masks = outputs.rpn, outputs.stages, detections.stage_masks
    height, width = sizes[0].numpy().astype(int)
    there = rpn.proposals.valid[0].numpy()
    boxes = np.stack([rpn.proposals.boxes[0], *(stage.boxes[0] for stage in stages)])[:, there]
    kept = detections.valid[0].numpy() & (detections.scores[0].numpy() >= threshold)
    found = Detections(*(None if field is None else field[0].numpy()[kept] for field in detections))
    found = found._replace(stage_masks=None)
    final = model.postprocess.scores(stages)[0].numpy()[there]
    return Walk(
        photo=photo,
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
        thresholds=tuple(stage.iou_threshold for stage in model.stages),
        interleaved=model.interleaved,
        mask_info_flow=model.mask_info_flow,
        average_masks=model.average_masks,
    )


def _forward(model):
    """One pass as Outputs and Detections, without what RoIs are pooled from: nothing here draws it."""

    def forward(images, sizes):
        outputs = model(images, sizes)
        return outputs._replace(features=None), model.detect(outputs)

    return forward


def find_rows(detections, boxes, scores):
    """Which of the last stage's boxes each detection is.

    Args:
        detections: Detections of NumPy arrays, [D, ...].
        boxes: [n, 4], the last stage's, or [n, K, 4], one for each class.
        scores: [n, K], by which of several equal boxes the one is told that was chosen.
    Returns:
        [D] int.
    """
    if not len(detections.boxes):
        return np.zeros(0, int)
    boxes = boxes if boxes.ndim == 2 else boxes[:, detections.classes].swapaxes(0, 1)
    apart = np.abs(detections.boxes[:, None] - boxes).max(axis=-1)  # [D, n]
    same = apart <= apart.min(axis=1, keepdims=True) + SAME
    return np.where(same, scores.T[detections.classes], -1).argmax(axis=1).astype(int)


def softmax(logits):
    """[..., K + 1] -> probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _activity(maps, level, height, width):
    """A level's features [h, w, C], cut to the photo -> [h', w']."""
    rows, columns = (-(-int(side) // 2**level) for side in (height, width))
    return tf.sqrt(tf.reduce_mean(tf.square(tf.cast(maps[:rows, :columns], tf.float32)), axis=-1)).numpy()
