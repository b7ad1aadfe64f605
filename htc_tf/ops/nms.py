"""Non-maximum suppression: from many overlapping scored boxes to the few best.

Before it: the RPN's decoded anchors, or the cascade's refined boxes. After it: Proposals, or Detections.

Greedy and exact, in two implementations whose results are equal but for the choice among equal scores:
- "combined": `tf.image.combined_non_max_suppression`, the fastest where there is no XLA (it has no XLA kernel);
- "xla": our own, of static shape, which also compiles under `jit_compile=True`.
Among equal scores the smaller index wins in "xla", an arbitrary one in "combined". Neither passes a gradient on.

Classes (and levels) are kept apart by comparing them, never by moving their boxes apart: 80 classes offset by 3000
pixels each would leave float32 a resolution of 1/64 pixel.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.structures import Detections, Proposals

TILE = 256
NEVER = float("-inf")  # the score of what is no candidate
LOWEST = -1.0  # every candidate's score is above: the combined op says -1 where it found nothing


def suppress(boxes, valid, threshold):
    """Which boxes greedy NMS keeps: a box goes if it overlaps a better one that stays by IoU > threshold.

    Boxes are taken in tiles: inside a tile the rule is settled, then the tile suppresses all later boxes, so no
    n x n matrix is ever made.

    Args:
        boxes: [..., n, 4], best first; n is static.
        valid: [..., n] bool; what is not valid neither stays nor suppresses.
        threshold: IoU above which (strictly) a box is suppressed.

    Returns:
        [..., n] bool, the boxes that stay.
    """
    kept = []
    for start in range(0, boxes.shape[-2], TILE):
        tile, later = boxes[..., start : start + TILE, :], boxes[..., start + TILE :, :]
        stays = _settle(box_ops.iou(tile, tile) > threshold, valid[..., : tile.shape[-2]])
        kept.append(stays)
        valid = valid[..., tile.shape[-2] :] & ~_any_hits(stays, box_ops.iou(tile, later) > threshold)
    return tf.concat(kept, axis=-1)


def _settle(overlaps, valid):
    """Greedy NMS inside one tile, best first: overlaps [..., T, T] bool, valid [..., T] -> [..., T] bool.

    The rule is swept over all boxes at once until nothing changes. It has one solution, since a box depends on
    better ones only, and each sweep settles at least one more box: the result is exact, mostly after a few sweeps.
    """
    size = overlaps.shape[-1]
    suppresses = overlaps & (tf.range(size)[:, None] < tf.range(size))

    def sweep(stays, _):
        swept = valid & ~_any_hits(stays, suppresses)
        return swept, tf.reduce_any(swept != stays)

    return tf.while_loop(lambda _, changed: changed, sweep, (valid, tf.constant(True)))[0]


def _any_hits(stays, overlaps):
    """Which of m boxes overlap any of the n that stay: [..., n] and [..., n, m] -> [..., m]."""
    return tf.reduce_any(overlaps & stays[..., None], axis=-2)


def select_proposals(boxes, scores, valid, threshold, keep, implementation="combined"):
    """NMS on each pyramid level by itself, then the best `keep` of all levels together.

    Args:
        boxes: [B, L, n, 4] float32, candidates of L levels, in any order; L and n are static.
        scores: [B, L, n] float32, probabilities.
        valid: [B, L, n] bool; levels with fewer than n candidates are padded with False.
        threshold: IoU above which (strictly) the lower of two boxes goes.
        keep: length of the result.
        implementation: "combined" or "xla".

    Returns:
        Proposals of length `keep`, best first; zeros where not valid.

    Raises:
        UserError: no such implementation.
    """
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(_mask(scores, valid, LOWEST))
    if _is_combined(implementation):
        boxes, scores, _, valid = _combined(
            tf.transpose(boxes, [0, 2, 1, 3]), tf.transpose(scores, [0, 2, 1]), threshold, keep
        )
        return Proposals(boxes, scores, valid)
    levels, length = scores.shape[1:]
    scores, order = tf.math.top_k(scores, length)
    boxes = tf.gather(boxes, order, batch_dims=2)
    scores = _mask(scores, suppress(boxes, scores > NEVER, threshold), NEVER)
    scores, order, valid = _best(tf.reshape(scores, [-1, levels * length]), keep)
    boxes = tf.gather(tf.reshape(boxes, [-1, levels * length, 4]), order, batch_dims=1)
    return Proposals(tf.where(valid[..., None], boxes, 0.0), scores, valid)


def select_detections(boxes, scores, valid, score_threshold, iou_threshold, keep, implementation="combined"):
    """NMS on each class by itself, then the best `keep` of all classes together. One box may be of several classes.

    Args:
        boxes: [B, N, 4] float32, shared by the classes; N is static.
        scores: [B, N, K] float32, probabilities of the thing classes only; K is static.
        valid: [B, N] bool.
        score_threshold: score above which (strictly) a box is a candidate of a class.
        iou_threshold: IoU above which (strictly) the lower of two boxes of a class goes.
        keep: length of the result.
        implementation: "combined" or "xla".

    Returns:
        Detections of length `keep`, best first, without masks; zeros where not valid.

    Raises:
        UserError: no such implementation.
    """
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(_mask(scores, valid[..., None], score_threshold))
    if _is_combined(implementation):
        return Detections(*_combined(boxes[:, :, None], scores, iou_threshold, keep))
    return Detections(*_search(boxes, scores, iou_threshold, keep))


def _is_combined(implementation):
    if implementation not in ("combined", "xla"):
        raise UserError(f'NMS implementation must be "combined" or "xla", not {implementation!r}')
    return implementation == "combined"


def _mask(scores, valid, threshold):
    """Scores, but NEVER for what is no candidate: not valid, or not above the threshold (NaN is not)."""
    return tf.where(valid & (scores > threshold), scores, NEVER)


def _combined(boxes, scores, threshold, keep):
    """Boxes [B, n, Q, 4], Q is K or 1, and scores [B, n, K] -> boxes, scores, classes, valid of length `keep`."""
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class=keep,
        max_total_size=keep,
        iou_threshold=threshold,
        score_threshold=LOWEST,
        clip_boxes=False,
    )
    return boxes, scores, tf.cast(classes, tf.int32), tf.range(keep) < count[:, None]


def _search(boxes, scores, threshold, keep):
    """What `_combined` does for boxes [B, N, 4], compilable: looks through the candidates until `keep` are found.

    All (box, class) pairs are sorted and taken tile by tile. A tile loses what overlaps the detections found before,
    and is then settled in itself. That ends long before the pairs do, as a rule within the first thousand.
    """
    rows, columns = scores.shape[1:]
    pairs = rows * columns
    scores, order = tf.math.top_k(tf.reshape(scores, [-1, pairs]), pairs)
    scores = _tiles(scores, NEVER)
    order = _tiles(order, 0)

    def unfinished(step, found_scores, *_):
        some_left = scores[:, tf.minimum(step, scores.shape[1] - 1), 0] > NEVER
        return (step < scores.shape[1]) & tf.reduce_any(some_left & (found_scores[:, -1] == NEVER))

    def look_through(step, found_scores, found_boxes, found_classes):
        tile_boxes = tf.gather(boxes, order[:, step] // columns, batch_dims=1)
        tile_classes = order[:, step] % columns
        all_boxes = tf.concat([found_boxes, tile_boxes], axis=1)
        all_classes = tf.concat([found_classes, tile_classes], axis=1)
        overlaps = box_ops.iou(all_boxes, tile_boxes) > threshold  # [B, keep + TILE, TILE]
        overlaps &= all_classes[:, :, None] == tile_classes[:, None]
        free = (scores[:, step] > NEVER) & ~_any_hits(found_scores > NEVER, overlaps[:, :keep])
        tile_scores = _mask(scores[:, step], _settle(overlaps[:, keep:], free), NEVER)
        found_scores, best = tf.math.top_k(tf.concat([found_scores, tile_scores], axis=1), keep)
        found_boxes = tf.gather(all_boxes, best, batch_dims=1)
        return step + 1, found_scores, found_boxes, tf.gather(all_classes, best, batch_dims=1)

    shape = [tf.shape(boxes)[0], keep]
    nothing = tf.fill(shape, NEVER), tf.zeros([*shape, 4]), tf.zeros(shape, tf.int32)
    _, scores, boxes, classes = tf.while_loop(unfinished, look_through, (0, *nothing))
    valid = scores > NEVER
    return tf.where(valid[..., None], boxes, 0.0), tf.where(valid, scores, 0.0), tf.where(valid, classes, 0), valid


def _tiles(values, padding):
    """[B, n] -> [B, ceil(n / TILE), TILE]."""
    padded = tf.pad(values, [[0, 0], [0, -values.shape[1] % TILE]], constant_values=padding)
    return tf.reshape(padded, [-1, padded.shape[1] // TILE, TILE])


def _best(scores, keep):
    """The best `keep` of scores [B, n] -> scores, order (indices below n), valid; score 0 where not valid."""
    length = scores.shape[1]
    padded = tf.pad(scores, [[0, 0], [0, max(0, keep - length)]], constant_values=NEVER)
    scores, order = tf.math.top_k(padded, keep)
    valid = scores > NEVER
    return tf.where(valid, scores, 0.0), tf.minimum(order, length - 1), valid
