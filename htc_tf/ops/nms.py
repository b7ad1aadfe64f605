"""Non-maximum suppression of the RPN's proposals per pyramid level, and of detections per class.

Greedy and exact, in two implementations whose results are equal except for the choice among equal scores:
- "combined": `tf.image.combined_non_max_suppression`, the fastest without XLA (it has no XLA kernel);
- "xla": of static shape, compiles under `jit_compile=True` and also runs without it.
Among equal scores the smaller index wins in "xla", an arbitrary one in "combined". Neither has a gradient.

Classes (and levels) are compared, instead of offsetting their boxes: 80 classes offset by 3000 pixels each would leave
float32 a resolution of 1/64 pixel.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.devices import has_gpu
from htc_tf.structures import Detections, Proposals

TILE, GPU_TILE = 128, 512  # boxes whose suppression is computed together, on a CPU and on a GPU
PRE_NMS_TOPK = 1024  # (box, class) pairs that are searched first; these are nearly always enough
NEG_INF = float("-inf")  # score of a box that is not a candidate
MIN_SCORE = -1.0  # below the score of every candidate; the combined op returns -1 in the rows without a detection


def suppress(boxes: tf.Tensor, valid: tf.Tensor, threshold: float) -> tf.Tensor:
    """Computes greedy NMS: a box is suppressed if its IoU with a better box that is kept exceeds the threshold.

    Boxes are processed in tiles: NMS is solved inside a tile, then the tile suppresses all later boxes, so that no
    n x n matrix is needed.

    Args:
        boxes: [..., n, 4], best first; n is static.
        valid: [..., n] bool; other boxes are neither kept nor suppress any.
        threshold: float; a box is suppressed if the IoU is larger (strictly).

    Returns:
        [..., n] bool, True for the boxes that are kept.
    """
    kept, size = [], tile_size()
    for start in range(0, boxes.shape[-2], size):
        tile, later = boxes[..., start : start + size, :], boxes[..., start + size :, :]  # [..., T, 4], [..., m, 4]
        keep = _suppress_tile(box_ops.iou(tile, tile) > threshold, valid[..., : tile.shape[-2]])  # [..., T]
        kept.append(keep)
        # From here on, `valid` [..., m] refers to the later boxes.
        valid = valid[..., tile.shape[-2] :] & ~_overlaps_any(keep, box_ops.iou(tile, later) > threshold)
    return tf.concat(kept, axis=-1)


def tile_size() -> int:
    """Returns the number of boxes whose suppression is computed together."""
    return GPU_TILE if has_gpu() else TILE


def _suppress_tile(overlaps, valid):
    """Computes greedy NMS inside one tile.

    The rule is applied to all boxes at once until nothing changes. It has one solution, since a box depends on better
    ones only, and each sweep determines at least one more box: the result is exact, mostly after a few sweeps.

    Args:
        overlaps: [..., T, T] bool, pairs of boxes with an IoU above the threshold, best first.
        valid: [..., T] bool.

    Returns:
        [..., T] bool, True for the boxes that are kept.
    """
    size = overlaps.shape[-1]
    suppresses = overlaps & (tf.range(size)[:, None] < tf.range(size))  # the upper triangle: better boxes only

    def sweep(keep, _):
        swept = valid & ~_overlaps_any(keep, suppresses)
        return swept, tf.reduce_any(swept != keep)

    return tf.while_loop(lambda _, changed: changed, sweep, (valid, tf.constant(True)))[0]


def _overlaps_any(keep, overlaps):
    """Returns [..., m] bool, True for boxes with overlaps [..., n, m] with any of n boxes with keep [..., n]."""
    return tf.reduce_any(overlaps & keep[..., None], axis=-2)


def select_proposals(
    boxes: tf.Tensor, scores: tf.Tensor, valid: tf.Tensor, threshold: float, keep: int, implementation: str = "combined"
) -> Proposals:
    """Applies NMS to each pyramid level separately and selects the best `keep` boxes of all levels.

    Args:
        boxes: [B, L, n, 4] float32, candidates of L levels, in any order; L and n are static.
        scores: [B, L, n] float32, probabilities.
        valid: [B, L, n] bool; levels with fewer than n candidates are padded with False.
        threshold: float; the worse of two boxes is suppressed if their IoU is larger (strictly).
        keep: int, length of the result.
        implementation: "combined" or "xla".

    Returns:
        Proposals of length `keep`, best first; zeros where not valid.

    Raises:
        UserError: the implementation is unknown.
    """
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(_mask_scores(scores, valid, MIN_SCORE))
    if _is_combined(implementation):
        # The combined op's classes are the levels: boxes [B, n, L, 4], scores [B, n, L].
        boxes, scores, _, valid = _combined_nms(
            tf.transpose(boxes, [0, 2, 1, 3]), tf.transpose(scores, [0, 2, 1]), threshold, keep
        )
        return Proposals(boxes, scores, valid)
    levels, length = scores.shape[1:]
    scores, order = tf.math.top_k(scores, length)  # sorted: [B, L, n] both
    boxes = tf.gather(boxes, order, batch_dims=2)  # [B, L, n, 4]
    scores = _mask_scores(scores, suppress(boxes, scores > NEG_INF, threshold), NEG_INF)
    scores, order, valid = _top_k(tf.reshape(scores, [-1, levels * length]), keep)  # [B, keep] each
    boxes = tf.gather(tf.reshape(boxes, [-1, levels * length, 4]), order, batch_dims=1)  # [B, keep, 4]
    return Proposals(tf.where(valid[..., None], boxes, 0.0), scores, valid)


def select_detections(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    valid: tf.Tensor,
    score_threshold: float,
    iou_threshold: float,
    keep: int,
    implementation: str = "combined",
) -> Detections:
    """Applies NMS to each class separately and selects the best `keep` boxes of all classes.

    A box may become a detection of several classes.

    Args:
        boxes: [B, N, 4] float32, shared by the classes, or [B, N, K, 4], one for each; N is static.
        scores: [B, N, K] float32, probabilities of the thing classes only; K is static.
        valid: [B, N] bool.
        score_threshold: float; a box is a candidate of a class if its score is larger (strictly).
        iou_threshold: float; the worse of two boxes of a class is suppressed if their IoU is larger (strictly).
        keep: int, length of the result.
        implementation: "combined" or "xla".

    Returns:
        Detections of length `keep`, best first, without masks; zeros where not valid.

    Raises:
        UserError: the implementation is unknown.
    """
    boxes, scores = tf.stop_gradient(boxes), tf.stop_gradient(_mask_scores(scores, valid[..., None], score_threshold))
    if boxes.shape.rank == 3:
        boxes = boxes[:, :, None]  # [B, N, 1, 4]
    nms = _combined_nms_of_best if _is_combined(implementation) else _tiled_nms
    return Detections(*nms(boxes, scores, iou_threshold, keep))


def _is_combined(implementation):
    if implementation not in ("combined", "xla"):
        raise UserError(f'NMS implementation must be "combined" or "xla", not {implementation!r}')
    return implementation == "combined"


def _mask_scores(scores, valid, threshold):
    """Returns the scores, NEG_INF where not valid or not above the threshold (NaN is not)."""
    return tf.where(valid & (scores > threshold), scores, NEG_INF)


def _combined_nms(boxes, scores, threshold, keep):
    """Applies tf.image.combined_non_max_suppression.

    Args:
        boxes: [B, n, Q, 4]; Q is K, or 1 if the classes share the boxes.
        scores: [B, n, K], NEG_INF for boxes that are not candidates.
        threshold: float, IoU.
        keep: int, length of the result.

    Returns:
        boxes [B, keep, 4], scores [B, keep], classes [B, keep] int32, valid [B, keep] bool.
    """
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class=keep,
        max_total_size=keep,
        iou_threshold=threshold,
        score_threshold=MIN_SCORE,
        clip_boxes=False,
    )
    return boxes, scores, tf.cast(classes, tf.int32), tf.range(keep) < count[:, None]


def _combined_nms_of_best(boxes, scores, threshold, keep):
    """Computes `_combined_nms` of the best PRE_NMS_TOPK pairs, and of all pairs only if these do not suffice.

    With 80,000 pairs this takes less than half of the time. Arguments and results: as in `_combined_nms`.
    """
    pairs = scores.shape[1] * scores.shape[2]
    if pairs <= PRE_NMS_TOPK:
        return _combined_nms(boxes, scores, threshold, keep)
    best, _ = tf.math.top_k(tf.reshape(scores, [-1, pairs]), PRE_NMS_TOPK, sorted=False)  # [B, PRE_NMS_TOPK]
    lowest = tf.reduce_min(best, axis=1)  # [B]
    # All scores equal to the lowest one stay.
    top_scores = tf.where(scores >= lowest[:, None, None], scores, NEG_INF)  # [B, n, K]
    found = _combined_nms(boxes, top_scores, threshold, keep)
    # The result is final if it is full, or if `lowest` is NEG_INF: then it contains all candidates.
    too_few = tf.reduce_any((lowest > NEG_INF) & ~found[-1][:, -1])
    return tf.cond(too_few, lambda: _combined_nms(boxes, scores, threshold, keep), lambda: found)


def _tiled_nms(boxes, scores, threshold, keep):
    """Computes NMS by tiles of candidates until `keep` detections are found; compiles under XLA.

    The (box, class) pairs are processed tile by tile, best first. A tile loses the boxes that overlap earlier
    detections, then NMS is solved inside it. The search ends long before the last pair, nearly always within the first
    PRE_NMS_TOPK; only if these do not suffice are all pairs sorted. Arguments and results: as in `_combined_nms`.
    """
    rows, columns = scores.shape[1:]
    pairs = rows * columns
    sharing = columns if boxes.shape[2] == 1 else 1  # number of pairs with the same box
    boxes = tf.reshape(boxes, [-1, pairs // sharing, 4])  # pair p has box p // sharing and class p % columns
    scores = tf.reshape(scores, [-1, pairs])

    def search(state, length):
        """Searches the best `length` pairs, from the tile number state[0] on, and returns the new state."""
        best, order = tf.math.top_k(scores, length)
        best, order = _split_tiles(best, NEG_INF), _split_tiles(order, 0)  # [B, tiles, T]

        def unfinished(step, found_scores, *_):
            has_candidates = best[:, tf.minimum(step, best.shape[1] - 1), 0] > NEG_INF
            return (step < best.shape[1]) & tf.reduce_any(has_candidates & (found_scores[:, -1] == NEG_INF))

        def next_tile(step, *found):
            return step + 1, *add_tile(best[:, step], order[:, step], *found)

        return tf.while_loop(unfinished, next_tile, state)

    def add_tile(tile_scores, tile_order, found_scores, found_boxes, found_classes):
        """Adds the detections of a tile, scores and pairs [B, T], to those found so far, [B, keep, ...]."""
        tile_boxes, tile_classes = tf.gather(boxes, tile_order // sharing, batch_dims=1), tile_order % columns
        all_boxes = tf.concat([found_boxes, tile_boxes], axis=1)  # [B, keep + T, 4]
        all_classes = tf.concat([found_classes, tile_classes], axis=1)  # [B, keep + T]
        overlaps = box_ops.iou(all_boxes, tile_boxes) > threshold  # [B, keep + T, T]
        overlaps &= all_classes[:, :, None] == tile_classes[:, None]
        free = (tile_scores > NEG_INF) & ~_overlaps_any(found_scores > NEG_INF, overlaps[:, :keep])  # [B, T]
        tile_scores = _mask_scores(tile_scores, _suppress_tile(overlaps[:, keep:], free), NEG_INF)
        found_scores, best = tf.math.top_k(tf.concat([found_scores, tile_scores], axis=1), keep)  # [B, keep]
        return found_scores, tf.gather(all_boxes, best, batch_dims=1), tf.gather(all_classes, best, batch_dims=1)

    shape = [tf.shape(boxes)[0], keep]
    length = min(PRE_NMS_TOPK, pairs)
    # The number of the next tile, and the scores, boxes and classes found so far.
    state = search((0, tf.fill(shape, NEG_INF), tf.zeros([*shape, 4]), tf.zeros(shape, tf.int32)), length)
    if length < pairs:
        candidates = tf.reduce_sum(tf.cast(scores > NEG_INF, tf.int32), axis=1)  # [B]
        too_few = tf.reduce_any((state[1][:, -1] == NEG_INF) & (candidates > length))
        state = tf.cond(too_few, lambda: search(state, pairs), lambda: state)
    _, scores, boxes, classes = state
    valid = scores > NEG_INF
    return tf.where(valid[..., None], boxes, 0.0), tf.where(valid, scores, 0.0), tf.where(valid, classes, 0), valid


def _split_tiles(values, padding):
    """Pads and reshapes values [B, n] to [B, tiles, T]."""
    size = tile_size()
    padded = tf.pad(values, [[0, 0], [0, -values.shape[1] % size]], constant_values=padding)
    return tf.reshape(padded, [-1, padded.shape[1] // size, size])


def _top_k(scores, keep):
    """Selects the best `keep` of scores [B, n]; n may be smaller.

    Returns:
        scores [B, keep], 0 where not valid; indices [B, keep] int32 below n; valid [B, keep] bool.
    """
    length = scores.shape[1]
    padded = tf.pad(scores, [[0, 0], [0, max(0, keep - length)]], constant_values=NEG_INF)
    scores, order = tf.math.top_k(padded, keep)
    valid = scores > NEG_INF
    return tf.where(valid, scores, 0.0), tf.minimum(order, length - 1), valid
