"""Which object a box answers for, and which boxes training looks at.

`boxes.iou` comes before. `match` labels every anchor (for the RPN) or proposal (for a stage); `sample` takes a
balanced few of them, which `models.targets` turns into RoIs and regression targets. How the few are chosen is a
function of its own: `subsample_randomly` in training, `subsample_evenly` where two runs must take the same.
"""

from typing import NamedTuple

import tensorflow as tf


class Matches(NamedTuple):
    """What `match` found for each of N boxes."""

    index: tf.Tensor  # [B, N] int32, the object of a positive; 0 if none
    label: tf.Tensor  # [B, N] int32, 1 positive, 0 negative, -1 ignored
    iou: tf.Tensor  # [B, N] float32, the best overlap with any object; 0 if there is none


def match(iou, valid, positive, negative, minimum, low_quality=True, reassign=True, candidates=None):
    """Gives boxes to objects by overlap; source: `MaxIoUAssigner` of mmdetection.

    A box whose best overlap reaches `positive` is positive and goes to that object (the first one on a tie); below
    `negative` it is negative, in between ignored. With `low_quality`, every object then takes the boxes that
    overlap it best (all that tie), where that overlap reaches `minimum`: they are positive, and with `reassign` they
    go to it even from an object that they overlap more. If two objects take the same box, the later one has it.

    Args:
        iou: [B, N, G] float32, G >= 1.
        valid: [B, G] bool, which objects are not padding. Where none is valid, all candidates are negative.
        positive, negative, minimum: thresholds of the IoU, 0 < negative <= positive, 0 < minimum.
        low_quality: whether objects take their best boxes.
        reassign: whether a box that is taken goes to the taker, or stays with the object that it overlaps most.
        candidates: [B, N] bool; the others are ignored and are nobody's best. None: all are candidates.

    Returns:
        Matches.
    """
    taking_part = valid[:, None, :]
    if candidates is not None:
        taking_part &= candidates[:, :, None]
    iou = tf.where(taking_part, iou, -1.0)

    best = tf.maximum(tf.reduce_max(iou, axis=2), 0.0)
    index = tf.argmax(iou, axis=2, output_type=tf.int32)
    label = tf.where(best >= positive, 1, tf.where(best < negative, 0, -1))

    if low_quality:
        objects_best = tf.reduce_max(iou, axis=1, keepdims=True)
        # 2 equals no overlap: such an object takes nothing.
        objects_best = tf.where(objects_best >= minimum, objects_best, 2.0)
        objects = tf.range(tf.shape(iou)[2])
        taken_by = tf.reduce_max(tf.where(iou == objects_best, objects, -1), axis=2)
        label = tf.where(taken_by >= 0, 1, label)
        if reassign:
            index = tf.where(taken_by >= 0, taken_by, index)

    if candidates is not None:
        label = tf.where(candidates, label, -1)
    return Matches(index=tf.where(label == 1, index, 0), label=label, iou=best)


def sample(label, limit, positive_fraction, choose):
    """At most `limit` boxes, at most that fraction of them positive; negatives fill up what positives leave.

    Source: `RandomSampler` of mmdetection.

    Args:
        label: [B, N] int32, as `match` gives it.
        limit: int, boxes per image.
        positive_fraction: 0 ... 1; the largest number of positives is int(limit * positive_fraction).
        choose: `subsample_randomly(seed)` or `subsample_evenly`; called for the positives, then for the negatives.

    Returns:
        positive [B, N] bool, negative [B, N] bool.
    """
    positive = choose(label == 1, int(limit * positive_fraction))
    taken = tf.reduce_sum(tf.cast(positive, tf.int32), axis=-1)
    negative = choose(label == 0, limit - taken, maximum=limit)
    return positive, negative


def subsample_randomly(seed):
    """A `choose` for `sample` that takes every subset of the right size with the same probability.

    The same seed (int32 [2]) and shape give the same choice, on every device, compiled or not.
    """

    def choose(candidates, limit, maximum=None):
        """Exactly min(limit, number of candidates) of candidates [B, N] bool in each row: [B, N] bool.

        limit: an int, or int32 [B]; then `maximum`, an int that no limit exceeds, bounds the work (default N).
        """
        if maximum is None:
            maximum = limit if isinstance(limit, int) else candidates.shape[-1]
        maximum = min(maximum, candidates.shape[-1])
        if maximum <= 0:
            return tf.zeros_like(candidates)
        # Random bits are the same compiled or not, random floats are not. 24 bits fit a float32, which XLA's
        # top_k needs in order not to sort.
        bits = tf.random.stateless_uniform(tf.shape(candidates), seed, None, None, tf.uint32, alg="philox")
        keys = tf.where(candidates, tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32), -1.0)
        best, places = tf.math.top_k(keys, maximum)
        last = tf.clip_by_value(tf.broadcast_to(limit, tf.shape(candidates)[:1]) - 1, 0, maximum - 1)[:, None]
        last_key = tf.gather(best, last, batch_dims=1)
        last_place = tf.gather(places, last, batch_dims=1)
        # Keys of 270,000 candidates do tie; top_k then prefers the earlier place.
        earlier = tf.range(tf.shape(candidates)[-1]) <= last_place
        chosen = (keys > last_key) | ((keys == last_key) & earlier)
        return candidates & chosen & (tf.reshape(limit, [-1, 1]) > 0)

    return choose


def subsample_evenly(candidates, limit, maximum=None):
    """At most `limit` of candidates [B, N] bool in each row, evenly spaced: [B, N] bool.

    Of n candidates those at places (j * n) // limit, j = 0 ... limit - 1, if n > limit; all otherwise. limit: an
    int, or int32 [B]. `maximum` is not needed here; see `subsample_randomly`. XLA's cumsum is quadratic in N: beyond
    some 50,000 candidates do not compile this.
    """
    del maximum
    limit = tf.reshape(limit, [-1, 1])
    ones = tf.cast(candidates, tf.int32)
    count = tf.reduce_sum(ones, axis=-1, keepdims=True)
    place = tf.cumsum(ones, axis=-1) - 1
    step = tf.maximum(count, 1)
    # The only j that can lead to this place is the ceiling of place * limit / count.
    j = (place * limit + step - 1) // step
    chosen = (j < limit) & ((j * count) // tf.maximum(limit, 1) == place)
    return candidates & (chosen | (count <= limit))
