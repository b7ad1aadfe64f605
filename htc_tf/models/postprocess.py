"""From the last stage's boxes to detections: class scores of all stages, then NMS (paper, section 4.1)."""

import gin
import tensorflow as tf

from htc_tf.ops.nms import select_detections
from htc_tf.ops.soft_nms import METHODS, select_softly
from htc_tf.ranges import FLAG, FRACTION, check_ranges, choice, number, optional, whole


@gin.register
@check_ranges(
    score_threshold=number(0, below=1),
    nms_threshold=FRACTION,
    keep=whole(1),
    nms=choice("auto", "combined", "xla"),
    xla=FLAG,
    soft=optional(choice(*METHODS)),
    soft_sigma=number(above=0, most=1000),
)
class Postprocess:
    """StageOutputs -> Detections without masks: the mask heads run on these alone."""

    def __init__(
        self, score_threshold=0.001, nms_threshold=0.5, keep=100, nms="auto", xla=False, soft=None, soft_sigma=0.5
    ):
        """
        Args:
            score_threshold: a class score at or below it is no candidate.
            nms_threshold: IoU above which the lower box of the same class goes; with soft "linear", is lowered.
            keep: detections an image.
            nms: "combined", "xla", or "auto": "xla" where `xla` is set.
            xla: whether the model will be compiled by XLA.
            soft: "linear" or "gaussian" for soft-NMS, arXiv:1704.04503, in place of `nms`; or None.
            soft_sigma: of "gaussian"; the larger, the less overlapping boxes lose.
        """
        self.score_threshold, self.nms_threshold, self.keep = score_threshold, nms_threshold, keep
        self.nms = ("xla" if xla else "combined") if nms == "auto" else nms
        self.soft, self.soft_sigma = soft, soft_sigma

    def __call__(self, stages, valid=None):
        """valid: [B, N] bool, which of the last stage's boxes may be detections; by default those of its RoIs."""
        last = stages[-1]
        return self.select(last.candidates, self.scores(stages), last.rois.valid if valid is None else valid)

    def scores(self, stages):
        """[B, N, K]: the thing classes' probabilities, by all stages."""
        # The mean of the logits, not of the probabilities, as both public implementations have it.
        logits = tf.add_n([stage.logits for stage in stages]) / len(stages)
        return tf.nn.softmax(logits)[..., :-1]

    def select(self, boxes, scores, valid):
        """Boxes [B, N, 4] or [B, N, K, 4], scores [B, N, K], valid [B, N] -> Detections without masks."""
        if self.soft is not None:
            return select_softly(
                boxes, scores, valid, self.score_threshold, self.keep, self.soft, self.nms_threshold, self.soft_sigma
            )
        return select_detections(boxes, scores, valid, self.score_threshold, self.nms_threshold, self.keep, self.nms)
