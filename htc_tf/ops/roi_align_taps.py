"""The taps of RoIAlign: which cells make the bins of a RoI on one axis, and how much each counts.

`roi_align_xla` reads them forward and writes them backward, a block of taps at a time.

s fixed samples per bin have 2 s taps: each lies between two cells. Adaptive samples lie at most one cell apart, so
those of one bin share cells: g of them touch g + 1 cells, and over both axes (g + 1)^2 pairs of taps do the work of
4 g^2.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.sampling import count_samples

# Samples of one bin that can lie within a cell of a given cell: they are more than 1/2 apart, or as few as `finer`. One
# more for rounding at either end.
_NEAR = 6


class RoIs(NamedTuple):
    """RoIs and where the map of each lies among all cells, map after map."""

    boxes: tf.Tensor  # [R, 4] in cells of the RoI's level
    sizes: tf.Tensor  # [R, 2] int32, height and width of the RoI's map
    starts: tf.Tensor  # [R] int32, the map's first cell
    strides: tf.Tensor  # [R] int32, cells from one row of the map to the next


def count_taps(rois, output_size, sampling_ratio, finer=1):
    """How many taps each RoI needs on each axis: [R, 2] int32."""
    if sampling_ratio:
        return tf.fill([tf.size(rois.starts), 2], 2 * sampling_ratio)
    samples = tf.cast(count_samples(rois.boxes[:, 2:] - rois.boxes[:, :2], output_size, finer), tf.int32)
    return tf.minimum(samples + 1, rois.sizes)


def taps(rois, axis, output_size, sampling_ratio, first, width, finer=1):
    """A block of the taps of n RoIs on one axis: those from `first` on, `width` of them.

    Returns:
        Where each begins, for rows as their first cell among all cells, and what it counts: [n, P, width] int32 and
        float32. A tap that a RoI doesn't have counts 0.
    """
    ends, sizes = rois.boxes[:, axis::2], rois.sizes[:, axis]
    if sampling_ratio:
        cells, weights = _fixed_taps(ends, sizes, output_size, sampling_ratio, first, width)
    else:
        cells, weights = _adaptive_taps(ends, sizes, output_size, first, width, finer)
    if axis == 0:
        cells = rois.starts[:, None, None] + cells * rois.strides[:, None, None]
    return cells, weights


def _fixed_taps(ends, size, output_size, samples, first, width):
    """A block of the taps of a fixed number of samples, two a sample: those from `first` on, `width` of them.

    Args:
      ends: [n, 2] where the RoIs begin and end on this axis, in cells.
      size: [n] int32, cells of the map on this axis.
      output_size: P.
      samples: s per bin.
      first, width: the block.

    Returns:
      Cells [n, P, width] int32 and weights [n, P, width].
    """
    tap = first + tf.range(width)
    number = tf.range(output_size)[:, None] * samples + tap // 2
    sample = (tf.cast(number, tf.float32) + 0.5) / (output_size * samples)
    ends, size = ends[..., None, None], size[:, None, None]
    inside, place = _clamp(ends[:, 0] - 0.5 + sample * (ends[:, 1] - ends[:, 0]), size)
    cell = tf.floor(place)
    # The second tap of a sample is the cell above it.
    weight = tf.where(tap % 2 == 1, place - cell, 1.0 - (place - cell)) * inside / samples
    cell = tf.minimum(tf.cast(cell, tf.int32) + tap % 2, size - 1)
    return cell, tf.where(tap < 2 * samples, weight, 0.0)


def _adaptive_taps(ends, size, output_size, first, width, finer):
    """A block of the taps of adaptively many samples: those from `first` on, `width` of them.

    Args and returns as `_fixed_taps`; cells and weights are [n, P, width].
    """
    bins = (ends[:, 1:] - ends[:, :1]) / output_size
    samples = count_samples(ends[:, 1:] - ends[:, :1], output_size, finer)
    apart = tf.math.divide_no_nan(bins, samples)
    place = ends[:, :1] - 0.5 + 0.5 * apart + tf.range(output_size, dtype=tf.float32) * bins
    cell = tf.floor(_clamp(place, size[:, None])[1])[..., None] + tf.cast(first + tf.range(width), tf.float32)

    # Of all samples of the bin only those within one cell of the tap count.
    place, apart, samples = place[..., None], apart[..., None], samples[..., None]
    nearest = tf.math.divide_no_nan(cell - 1.0 - place, apart)
    nearest = tf.clip_by_value(tf.math.ceil(nearest) - 1.0, 0.0, samples)
    number = nearest[..., None] + tf.range(_NEAR, dtype=tf.float32)
    inside, place = _clamp(place[..., None] + number * apart[..., None], size[:, None, None, None])
    counts = inside * tf.cast(number < samples[..., None], tf.float32)
    weights = tf.reduce_sum(tf.nn.relu(1.0 - tf.abs(place - cell[..., None])) * counts, axis=-1)
    cells = tf.minimum(tf.cast(cell, tf.int32), size[:, None, None] - 1)
    return cells, tf.math.divide_no_nan(weights, samples)


def _clamp(place, size):
    """Whether a place counts at all (1.0 or 0.0), and the place on the map nearest to it."""
    size = tf.cast(size, tf.float32)
    inside = tf.cast((place >= -1.0) & (place <= size), tf.float32)
    return inside, tf.clip_by_value(place, 0.0, size - 1.0)
