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

TILE = 128
FIRST = 8 * TILE  # pairs of a box and a class that are sorted at first
NEG_INF = float("-inf")  # the score of what is no candidate
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
    scores = _mask(scores, suppress(boxes, scores > NEG_INF, threshold), NEG_INF)
    scores, order, valid = _best(tf.reshape(scores, [-1, levels * length]), keep)
    boxes = tf.gather(tf.reshape(boxes, [-1, levels * length, 4]), order, batch_dims=1)
    return Proposals(tf.where(valid[..., None], boxes, 0.0), scores, valid)


def select_detections(boxes, scores, valid, score_threshold, iou_threshold, keep, implementation="combined"):
    """NMS on each class by itself, then the best `keep` of all classes together. A row may be of several classes.

    Args:
        boxes: [B, N, 4] float32, shared by the classes, or [B, N, K, 4], one for each; N is static.
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
    if boxes.shape.rank == 3:
        boxes = boxes[:, :, None]
    find = _search_combined if _is_combined(implementation) else _search
    return Detections(*find(boxes, scores, iou_threshold, keep))


def _is_combined(implementation):
    if implementation not in ("combined", "xla"):
        raise UserError(f'NMS implementation must be "combined" or "xla", not {implementation!r}')
    return implementation == "combined"


def _mask(scores, valid, threshold):
    """Scores, but NEVER for what is no candidate: not valid, or not above the threshold (NaN is not)."""
    return tf.where(valid & (scores > threshold), scores, NEG_INF)


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


def _search_combined(boxes, scores, threshold, keep):
    """What `_combined` does, which sees the best FIRST pairs alone, and all only where these do not suffice.

    Of 80,000 pairs that takes less than half of the time.
    """
    pairs = scores.shape[1] * scores.shape[2]
    if pairs <= FIRST:
        return _combined(boxes, scores, threshold, keep)
    best, _ = tf.math.top_k(tf.reshape(scores, [-1, pairs]), FIRST, sorted=False)
    least = tf.reduce_min(best, axis=1)
    # Scores equal to the least stay, however many they are.
    narrowed = tf.where(scores >= least[:, None, None], scores, NEG_INF)
    found = _combined(boxes, narrowed, threshold, keep)
    # Where `least` is no score, all candidates have been offered.
    too_few = tf.reduce_any((least > NEG_INF) & ~found[-1][:, -1])
    return tf.cond(too_few, lambda: _combined(boxes, scores, threshold, keep), lambda: found)


def _search(boxes, scores, threshold, keep):
    """What `_combined` does, compilable: looks through the candidates until `keep` are found.

    The (box, class) pairs are taken tile by tile, best first. A tile loses what overlaps the detections found before,
    and is then settled in itself. That ends long before the pairs do, as a rule within the first FIRST; only where
    these don't suffice are all pairs sorted.
    """
    rows, columns = scores.shape[1:]
    pairs = rows * columns
    shared = columns if boxes.shape[2] == 1 else 1  # how many pairs have one box
    boxes = tf.reshape(boxes, [-1, pairs // shared, 4])
    scores = tf.reshape(scores, [-1, pairs])

    def go_on(state, length):
        """Looks through the best `length` pairs, from the tile that the state says."""
        best, order = tf.math.top_k(scores, length)
        best, order = _tiles(best, NEG_INF), _tiles(order, 0)

        def unfinished(step, found_scores, *_):
            some_left = best[:, tf.minimum(step, best.shape[1] - 1), 0] > NEG_INF
            return (step < best.shape[1]) & tf.reduce_any(some_left & (found_scores[:, -1] == NEG_INF))

        def look(step, *found):
            return step + 1, *look_through(best[:, step], order[:, step], *found)

        return tf.while_loop(unfinished, look, state)

    def look_through(tile_scores, tile_order, found_scores, found_boxes, found_classes):
        tile_boxes, tile_classes = tf.gather(boxes, tile_order // shared, batch_dims=1), tile_order % columns
        all_boxes = tf.concat([found_boxes, tile_boxes], axis=1)
        all_classes = tf.concat([found_classes, tile_classes], axis=1)
        overlaps = box_ops.iou(all_boxes, tile_boxes) > threshold  # [B, keep + TILE, TILE]
        overlaps &= all_classes[:, :, None] == tile_classes[:, None]
        free = (tile_scores > NEG_INF) & ~_any_hits(found_scores > NEG_INF, overlaps[:, :keep])
        tile_scores = _mask(tile_scores, _settle(overlaps[:, keep:], free), NEG_INF)
        found_scores, best = tf.math.top_k(tf.concat([found_scores, tile_scores], axis=1), keep)
        return found_scores, tf.gather(all_boxes, best, batch_dims=1), tf.gather(all_classes, best, batch_dims=1)

    shape = [tf.shape(boxes)[0], keep]
    first = min(FIRST, pairs)
    state = go_on((0, tf.fill(shape, NEG_INF), tf.zeros([*shape, 4]), tf.zeros(shape, tf.int32)), first)
    if first < pairs:
        candidates = tf.reduce_sum(tf.cast(scores > NEG_INF, tf.int32), axis=1)
        too_few = tf.reduce_any((state[1][:, -1] == NEG_INF) & (candidates > first))
        state = tf.cond(too_few, lambda: go_on(state, pairs), lambda: state)
    _, scores, boxes, classes = state
    valid = scores > NEG_INF
    return tf.where(valid[..., None], boxes, 0.0), tf.where(valid, scores, 0.0), tf.where(valid, classes, 0), valid


def _tiles(values, padding):
    """[B, n] -> [B, ceil(n / TILE), TILE]."""
    padded = tf.pad(values, [[0, 0], [0, -values.shape[1] % TILE]], constant_values=padding)
    return tf.reshape(padded, [-1, padded.shape[1] // TILE, TILE])


def _best(scores, keep):
    """The best `keep` of scores [B, n] -> scores, order (indices below n), valid; score 0 where not valid."""
    length = scores.shape[1]
    padded = tf.pad(scores, [[0, 0], [0, max(0, keep - length)]], constant_values=NEG_INF)
    scores, order = tf.math.top_k(padded, keep)
    valid = scores > NEG_INF
    return tf.where(valid, scores, 0.0), tf.minimum(order, length - 1), valid
