"""From the last stage's boxes to detections: class scores of all stages, then NMS (paper, section 4.1)."""

import gin
import tensorflow as tf

from htc_tf.ops.nms import select_detections


@gin.register
class Postprocess:
    """StageOutputs -> Detections without masks: the mask heads run on these alone."""

    def __init__(self, score_threshold=0.001, nms_threshold=0.5, keep=100, nms="auto", xla=False):
        """
        Args:
            score_threshold: a class score at or below it is no candidate.
            nms_threshold: IoU above which the lower box of the same class goes.
            keep: detections an image.
            nms: "combined", "xla", or "auto": "xla" where `xla` is set.
            xla: whether the model will be compiled by XLA.
        """
        self.score_threshold, self.nms_threshold, self.keep = score_threshold, nms_threshold, keep
        self.nms = ("xla" if xla else "combined") if nms == "auto" else nms

    def __call__(self, stages, valid=None):
        """valid: [B, N] bool, which of the last stage's boxes may be detections; by default those of its RoIs."""
        # The mean of the logits, not of the probabilities, as both public implementations have it.
        logits = tf.add_n([stage.logits for stage in stages]) / len(stages)
        scores = tf.nn.softmax(logits)[..., :-1]
        last = stages[-1]
        valid = last.rois.valid if valid is None else valid
        return select_detections(
            last.boxes, scores, valid, self.score_threshold, self.nms_threshold, self.keep, self.nms
        )
