"""Soft-NMS: overlapping boxes lose score instead of being suppressed (Bodla et al., arXiv:1704.04503).

An alternative to `ops.nms.select_detections`, of static shape, which also compiles under `jit_compile=True`.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.structures import Detections

NEG_INF = float("-inf")  # score of a box that is not a candidate, or was selected already
METHODS = ("linear", "gaussian")


def select_softly(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    valid: tf.Tensor,
    score_threshold: float,
    keep: int,
    method: str = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
) -> Detections:
    """Selects the best `keep` boxes one after the other; each lowers the scores of its class by their overlap with it.

    A selection changes its own class only. So one loop over all classes equals soft-NMS on each class separately,
    followed by a selection of the best boxes of all classes.

    Args:
        boxes: [B, N, 4] float32, shared by the classes, or [B, N, K, 4], one for each; N is static.
        scores: [B, N, K] float32, probabilities of the thing classes only; K is static.
        valid: [B, N] bool.
        score_threshold: float; a box is a candidate of a class while its score is larger (strictly).
        keep: int, length of the result.
        method: "linear": a score is multiplied by 1 - IoU if the IoU is above `iou_threshold`; "gaussian": by
            exp(-IoU^2 / sigma).
        iou_threshold, sigma: floats, parameters of the two methods.

    Returns:
        Detections of length `keep`, best first, with the lowered scores, without masks; zeros where not valid.

    Raises:
        UserError: the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f'soft-NMS must be "linear" or "gaussian", not {method!r}')
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(scores)
    classes = scores.shape[-1]
    scores = tf.where(valid[..., None] & (scores > score_threshold), scores, NEG_INF)  # [B, N, K]
    pairs = tf.range(scores.shape[1] * classes)  # pair p is box p // K as class p % K

    def select(step, remaining, found_boxes, found_scores, found_classes):
        """Moves the best of the remaining scores [B, N, K] to the detections, and lowers its class's scores."""
        flat = tf.reshape(remaining, [-1, scores.shape[1] * classes])  # [B, N K]
        best = tf.argmax(flat, axis=1, output_type=tf.int32)  # [B]
        score = tf.gather(flat, best, batch_dims=1)  # [B]
        label = best % classes  # [B]
        rivals = boxes if boxes.shape.rank == 3 else tf.gather(boxes, label, axis=2, batch_dims=1)  # [B, N, 4]
        box = tf.gather(rivals, best // classes, batch_dims=1)  # [B, 4]
        overlaps = box_ops.iou(rivals, box[:, None])[..., 0]  # [B, N]
        if method == "linear":
            factors = tf.where(overlaps > iou_threshold, 1.0 - overlaps, 1.0)
        else:
            factors = tf.exp(-tf.square(overlaps) / sigma)
        same_class = tf.range(classes) == label[:, None]  # [B, K]
        lowered = tf.where(same_class[:, None], remaining * factors[..., None], remaining)  # [B, N, K]
        selected = tf.reshape(pairs == best[:, None], tf.shape(remaining))  # [B, N, K]
        remaining = tf.where(~selected & (lowered > score_threshold), lowered, NEG_INF)
        return (
            step + 1,
            remaining,
            found_boxes.write(step, box),
            found_scores.write(step, score),
            found_classes.write(step, label),
        )

    found = (tf.TensorArray(dtype, size=keep) for dtype in (tf.float32, tf.float32, tf.int32))
    _, _, *found = tf.while_loop(lambda step, *_: step < keep, select, (0, scores, *found), maximum_iterations=keep)
    boxes, scores, labels = (x.stack() for x in found)  # [keep, B, 4], [keep, B], [keep, B]
    # The stacked arrays have no static length.
    boxes = tf.ensure_shape(tf.transpose(boxes, [1, 0, 2]), [None, keep, 4])
    scores, labels = (tf.ensure_shape(tf.transpose(x, [1, 0]), [None, keep]) for x in (scores, labels))
    valid = scores > NEG_INF
    return Detections(
        tf.where(valid[..., None], boxes, 0.0), tf.where(valid, scores, 0.0), tf.where(valid, labels, 0), valid
    )
