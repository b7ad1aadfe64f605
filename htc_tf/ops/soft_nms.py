"""Soft-NMS: overlapping boxes lose score in place of being dropped (Bodla et al., arXiv:1704.04503).

Before it: the cascade's refined boxes and their class scores. After it: Detections. An alternative to
`ops.nms.select_detections`, of static shape, which compiles under `jit_compile=True` too.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.structures import Detections

NEG_INF = float("-inf")  # the score of what is no candidate, or was chosen already
METHODS = ("linear", "gaussian")


def select_softly(boxes, scores, valid, score_threshold, keep, method="linear", iou_threshold=0.3, sigma=0.5):
    """Takes the best `keep` one after the other; each lowers the scores of its class by how much it overlaps them.

    All classes take turns: since a choice touches its own class only, that is soft-NMS on each class by itself and then
    the best of all classes together.

    Args:
        boxes: [B, N, 4] float32, shared by the classes, or [B, N, K, 4], one for each; N is static.
        scores: [B, N, K] float32, probabilities of the thing classes only; K is static.
        valid: [B, N] bool.
        score_threshold: score above which (strictly) a box is a candidate of a class, before and after being lowered.
        keep: length of the result.
        method: "linear": a score is multiplied by 1 - IoU where the IoU is above the threshold; "gaussian": by
            exp(-IoU^2 / sigma).
        iou_threshold, sigma: of the two methods.

    Returns:
        Detections of length `keep`, best first, with the lowered scores, without masks; zeros where not valid.

    Raises:
        UserError: no such method.
    """
    if method not in METHODS:
        raise UserError(f'soft-NMS must be "linear" or "gaussian", not {method!r}')
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(scores)
    classes = scores.shape[-1]
    scores = tf.where(valid[..., None] & (scores > score_threshold), scores, NEG_INF)
    places = tf.range(scores.shape[1] * classes)

    def choose(step, left, found_boxes, found_scores, found_classes):
        flat = tf.reshape(left, [-1, scores.shape[1] * classes])
        best = tf.argmax(flat, axis=1, output_type=tf.int32)
        score = tf.gather(flat, best, batch_dims=1)
        label = best % classes
        rivals = boxes if boxes.shape.rank == 3 else tf.gather(boxes, label, axis=2, batch_dims=1)  # [B, N, 4]
        box = tf.gather(rivals, best // classes, batch_dims=1)
        overlaps = box_ops.iou(rivals, box[:, None])[..., 0]  # [B, N]
        if method == "linear":
            factors = tf.where(overlaps > iou_threshold, 1.0 - overlaps, 1.0)
        else:
            factors = tf.exp(-tf.square(overlaps) / sigma)
        same = tf.range(classes) == label[:, None]  # [B, K]
        lowered = tf.where(same[:, None], left * factors[..., None], left)
        chosen = tf.reshape(places == best[:, None], tf.shape(left))
        left = tf.where(~chosen & (lowered > score_threshold), lowered, NEG_INF)
        return (
            step + 1,
            left,
            found_boxes.write(step, box),
            found_scores.write(step, score),
            found_classes.write(step, label),
        )

    found = (tf.TensorArray(dtype, size=keep) for dtype in (tf.float32, tf.float32, tf.int32))
    _, _, *found = tf.while_loop(lambda step, *_: step < keep, choose, (0, scores, *found), maximum_iterations=keep)
    boxes, scores, labels = (tf.stack(tf.unstack(x.stack(), keep), axis=1) for x in found)
    valid = scores > NEG_INF
    return Detections(
        tf.where(valid[..., None], boxes, 0.0), tf.where(valid, scores, 0.0), tf.where(valid, labels, 0), valid
    )
