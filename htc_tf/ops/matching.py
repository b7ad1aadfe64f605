"""Matching of boxes to ground-truth objects, and sampling of the matched boxes for training.

`match` labels every anchor (for the RPN) or proposal (for a stage); `sample` selects a balanced subset, which
`models.targets` turns into RoIs and regression targets. The selection itself is a function: `subsample_randomly` in
training, `subsample_evenly` where two runs must select the same boxes.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Choose: TypeAlias = Callable[..., tf.Tensor]  # (candidates [B, N] bool, limit, maximum=None) -> [B, N] bool


class Matches(NamedTuple):
    """The match of each of N boxes."""

    index: tf.Tensor  # [B, N] int32, the object of a positive; 0 for all other boxes
    label: tf.Tensor  # [B, N] int32, 1 positive, 0 negative, -1 ignored
    # [B, N] float32, the largest IoU with any object; 0 without objects. Only a comparison with mmdetection reads it.
    iou: tf.Tensor


def match(
    iou: tf.Tensor,
    valid: tf.Tensor,
    positive: float | tf.Tensor,
    negative: float | tf.Tensor,
    minimum: float | tf.Tensor,
    low_quality: bool = True,
    reassign: bool = True,
    candidates: tf.Tensor | None = None,
) -> Matches:
    """Assigns boxes to objects by IoU. Source: `MaxIoUAssigner` of mmdetection.

    A box whose largest IoU reaches `positive` is positive and assigned to that object (the first one on a tie); below
    `negative` it is negative, in between ignored. With `low_quality`, every object then takes the boxes with its
    largest IoU (all that tie) if that IoU reaches `minimum`: they are positive. With `reassign` they are assigned to
    it even if their IoU with another object is larger. If two objects take the same box, the later one gets it.

    Args:
        iou: [B, N, G] float32, G >= 1.
        valid: [B, G] bool, False for padding. If no object is valid, all candidates are negative.
        positive, negative, minimum: floats or [] float32, thresholds of the IoU, 0 < negative <= positive, 0 < minimum.
        low_quality: If True, objects take their best boxes.
        reassign: If True, a box that is taken is assigned to the object that takes it; otherwise it stays with the
            object of its largest IoU.
        candidates: [B, N] bool; other boxes are ignored and not taken by any object. None: all are candidates.

    Returns:
        Matches.
    """
    considered = valid[:, None, :]  # [B, 1, G]
    if candidates is not None:
        considered &= candidates[:, :, None]  # [B, N, G]
    iou = tf.where(considered, iou, -1.0)  # below every IoU

    best = tf.maximum(tf.reduce_max(iou, axis=2), 0.0)  # [B, N]
    index = tf.argmax(iou, axis=2, output_type=tf.int32)  # [B, N]
    label = tf.where(best >= positive, 1, tf.where(best < negative, 0, -1))

    if low_quality:
        best_of_object = tf.reduce_max(iou, axis=1, keepdims=True)  # [B, 1, G]
        # No IoU equals 2: an object whose best IoU is too small takes no box.
        best_of_object = tf.where(best_of_object >= minimum, best_of_object, 2.0)
        objects = tf.range(tf.shape(iou)[2])  # [G]
        taken_by = tf.reduce_max(tf.where(iou == best_of_object, objects, -1), axis=2)  # [B, N], -1 if not taken
        label = tf.where(taken_by >= 0, 1, label)
        if reassign:
            index = tf.where(taken_by >= 0, taken_by, index)

    if candidates is not None:
        label = tf.where(candidates, label, -1)
    return Matches(index=tf.where(label == 1, index, 0), label=label, iou=best)


def sample(label: tf.Tensor, limit: int, positive_fraction: float, choose: Choose) -> tuple[tf.Tensor, tf.Tensor]:
    """Selects at most `limit` boxes per image; negatives fill the places that positives leave.

    Source: `RandomSampler` of mmdetection.

    Args:
        label: [B, N] int32, as in Matches.
        limit: int, boxes per image.
        positive_fraction: float in [0, 1]; at most int(limit * positive_fraction) boxes are positive.
        choose: `subsample_randomly(seed)` or `subsample_evenly`; called for the positives, then for the negatives.

    Returns:
        positive, negative: [B, N] bool each, the selected boxes.
    """
    positive = choose(label == 1, int(limit * positive_fraction))
    taken = tf.reduce_sum(tf.cast(positive, tf.int32), axis=-1)  # [B]
    negative = choose(label == 0, limit - taken, maximum=limit)
    return positive, negative


def subsample_randomly(seed: tf.Tensor) -> Choose:
    """Returns a `choose` function for `sample` in which every subset of the right size has the same probability.

    The same seed ([2] int32) and shape give the same choice, on every device, compiled or not.
    """

    def choose(candidates, limit, maximum=None):
        """Chooses exactly min(limit, number of candidates) candidates in each row.

        Args:
            candidates: [B, N] bool.
            limit: int, or [B] int32.
            maximum: int that no limit exceeds, which bounds the work; by default N if the limit is a tensor.

        Returns:
            [B, N] bool.
        """
        if maximum is None:
            maximum = limit if isinstance(limit, int) else candidates.shape[-1]
        maximum = min(maximum, candidates.shape[-1])
        if maximum <= 0:
            return tf.zeros_like(candidates)
        # Random bits are the same compiled or not, random floats are not. 24 bits fit into a float32, which XLA's
        # top_k needs: it sorts all other types completely.
        bits = tf.random.stateless_uniform(tf.shape(candidates), seed, None, None, tf.uint32, alg="philox")
        keys = tf.where(candidates, tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32), -1.0)  # [B, N]
        best, places = tf.math.top_k(keys, maximum)  # [B, maximum]
        last = tf.clip_by_value(tf.broadcast_to(limit, tf.shape(candidates)[:1]) - 1, 0, maximum - 1)[:, None]  # [B, 1]
        last_key = tf.gather(best, last, batch_dims=1)  # [B, 1]
        last_place = tf.gather(places, last, batch_dims=1)  # [B, 1]
        # Some keys of 270,000 candidates are equal; top_k then prefers the smaller index.
        earlier = tf.range(tf.shape(candidates)[-1]) <= last_place
        chosen = (keys > last_key) | ((keys == last_key) & earlier)
        return candidates & chosen & (tf.reshape(limit, [-1, 1]) > 0)

    return choose


def subsample_evenly(candidates: tf.Tensor, limit: int | tf.Tensor, maximum: int | None = None) -> tf.Tensor:
    """Chooses at most `limit` candidates in each row, evenly spaced.

    Of n > limit candidates it chooses those with the ranks (j * n) // limit, j = 0 ... limit - 1; otherwise all.
    XLA's cumsum is quadratic in N: do not compile this for more than about 50,000 candidates.

    Args:
        candidates: [B, N] bool.
        limit: int, or [B] int32.
        maximum: ignored; see `subsample_randomly`.

    Returns:
        [B, N] bool.
    """
    del maximum
    limit = tf.reshape(limit, [-1, 1])
    ones = tf.cast(candidates, tf.int32)
    count = tf.reduce_sum(ones, axis=-1, keepdims=True)  # [B, 1]
    rank = tf.cumsum(ones, axis=-1) - 1  # [B, N]
    divisor = tf.maximum(count, 1)
    # The only j that can lead to a rank is the ceiling of rank * limit / count.
    j = (rank * limit + divisor - 1) // divisor
    chosen = (j < limit) & ((j * count) // tf.maximum(limit, 1) == rank)
    return candidates & (chosen | (count <= limit))
