"""Postprocessing: class scores averaged over the stages, then NMS of the last stage's boxes (paper, section 4.1)."""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops.nms import select_detections
from htc_tf.ops.soft_nms import METHODS, select_softly
from htc_tf.ranges import FLAG, FRACTION, check_ranges, choice, number, optional, whole
from htc_tf.structures import Detections, StageOutput


@gin.register
@check_ranges(
    score_threshold=number(0, below=1),
    nms_threshold=FRACTION,
    keep=whole(1),
    average=choice("logits", "probabilities"),
    nms=choice("auto", "combined", "xla"),
    xla=FLAG,
    soft=optional(choice(*METHODS)),
    soft_sigma=number(above=0, maximum=1000),
)
class Postprocess:
    """Selects detections from the stages' outputs. Mask heads then run on these alone."""

    def __init__(
        self,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.5,
        keep: int = 100,
        average: str = "logits",
        nms: str = "auto",
        xla: bool = False,
        soft: str | None = None,
        soft_sigma: float = 0.5,
    ) -> None:
        """
        Args:
            score_threshold: float, class scores must exceed it.
            nms_threshold: float, IoU with a better box of the same class above which a box is suppressed; with "linear"
                soft-NMS, above which its score is lowered.
            keep: int, detections of an image, D.
            average: "logits" (mmdetection, Paddle) or "probabilities" (detectron2), what is averaged over the stages.
            nms: "combined", "xla", or "auto": "xla" where `xla` is set, else "combined".
            xla: If True, the model will be compiled by XLA, which has no combined NMS.
            soft: "linear" or "gaussian" for soft-NMS (arXiv:1704.04503) instead of `nms`, or None.
            soft_sigma: float, width of "gaussian"; the larger, the less the scores of overlapping boxes are lowered.
        """
        if xla and nms == "combined" and soft is None:
            raise UserError("Postprocess.nms = 'combined' has no kernel in XLA: with XLA = True, give 'auto' or 'xla'")
        self.score_threshold, self.nms_threshold, self.keep = score_threshold, nms_threshold, keep
        self.average = average
        self.nms = ("xla" if xla else "combined") if nms == "auto" else nms
        self.soft, self.soft_sigma = soft, soft_sigma

    def __call__(self, stages: Sequence[StageOutput], valid: tf.Tensor | None = None) -> Detections:
        """Returns Detections without masks.

        Args:
            stages: StageOutputs.
            valid: [B, N] bool, boxes of the last stage that may become detections; None for its valid RoIs.
        """
        last = stages[-1]
        return self.select(last.candidates, self.scores(stages), last.rois.valid if valid is None else valid)

    def scores(self, stages: Sequence[StageOutput]) -> tf.Tensor:
        """Returns the probabilities of the thing classes, [B, N, K], averaged over the stages."""
        logits = [stage.logits for stage in stages]  # each [B, N, K + 1]
        if self.average == "probabilities":
            return (tf.add_n([tf.nn.softmax(x) for x in logits]) / len(logits))[..., :-1]
        return tf.nn.softmax(tf.add_n(logits) / len(logits))[..., :-1]

    def select(self, boxes: tf.Tensor, scores: tf.Tensor, valid: tf.Tensor) -> Detections:
        """Returns Detections without masks of boxes [B, N, 4] or [B, N, K, 4], scores [B, N, K] and valid [B, N]."""
        if self.soft is not None:
            return select_softly(
                boxes, scores, valid, self.score_threshold, self.keep, self.soft, self.nms_threshold, self.soft_sigma
            )
        return select_detections(boxes, scores, valid, self.score_threshold, self.nms_threshold, self.keep, self.nms)
