"""Sampling points of RoIAlign and their bilinear taps: the cells that make up a RoI's bins on one axis, with weights.

`ops.roi_align_xla` reads the taps in its forward pass and writes to them in its backward pass, a block at a time. A
fixed number of s samples per bin has 2 s taps, since each sample lies between two cells. Adaptive samples are at most
one cell apart, so that the samples of a bin share cells: g of them touch g + 1 cells, and on both axes (g + 1)^2 pairs
of taps replace 4 g^2.
"""

from typing import NamedTuple

import tensorflow as tf

# The largest number of samples of a bin within one cell of a given cell: they are more than 1/2 cell apart, or at most
# `oversampling` in number. Plus one for rounding at either end.
_NEAR = 6


class FlatRoIs(NamedTuple):
    """R RoIs and the place of their maps in a flat list of all cells, map after map."""

    boxes: tf.Tensor  # [R, 4] in cells of the RoI's level
    sizes: tf.Tensor  # [R, 2] int32, height and width of the RoI's map
    starts: tf.Tensor  # [R] int32, the map's first cell
    strides: tf.Tensor  # [R] int32, cells from one row of the map to the next


def count_samples(extents: tf.Tensor, bins: int, oversampling: int = 1) -> tf.Tensor:
    """Computes the adaptive number of samples per bin, ceil(extent / bins), exactly.

    XLA replaces the division by a product with a rounded reciprocal: 21 cells in 7 bins would be 3.0000002 and get 4
    samples. So the quotient is only a first guess, and an exact product decides.

    Args:
        extents: [...] float32, in cells.
        bins: int.
        oversampling: int; each bin is sampled like `oversampling` smaller bins along the axis.

    Returns:
        [...] float32, whole numbers.
    """
    guess = tf.round(extents / (oversampling * bins))
    return oversampling * (guess + tf.cast(extents > guess * (oversampling * bins), tf.float32))


def count_taps(rois: FlatRoIs, output_size: int, sampling_ratio: int, oversampling: int = 1) -> tf.Tensor:
    """Counts the taps of each RoI on each axis: [R, 2] int32."""
    if sampling_ratio:
        return tf.fill([tf.size(rois.starts), 2], 2 * sampling_ratio)
    samples = count_samples(rois.boxes[:, 2:] - rois.boxes[:, :2], output_size, oversampling)
    return tf.minimum(tf.cast(samples, tf.int32) + 1, rois.sizes)


def bilinear_taps(
    rois: FlatRoIs,
    axis: int,
    output_size: int,
    sampling_ratio: int,
    first: tf.Tensor,
    width: int,
    oversampling: int = 1,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes a block of the taps of n RoIs on one axis.

    Args:
        rois: FlatRoIs.
        axis: 0 for rows, 1 for columns.
        output_size: P.
        sampling_ratio: int, samples per bin; 0 is adaptive.
        first: [] int32, the block's first tap.
        width: int, taps in the block.
        oversampling: as in `count_samples`.

    Returns:
        cells: [n, P, width] int32; on axis 0 the first cell of the tap's row in the list of all cells, on axis 1 the
            column. Their sum is the index of the cell in that list.
        weights: [n, P, width] float32; 0 for taps that a RoI does not have.
    """
    ends, sizes = rois.boxes[:, axis::2], rois.sizes[:, axis]  # [n, 2], [n]
    if sampling_ratio:
        cells, weights = _fixed_taps(ends, sizes, output_size, sampling_ratio, first, width)
    else:
        cells, weights = _adaptive_taps(ends, sizes, output_size, first, width, oversampling)
    if axis == 0:
        cells = rois.starts[:, None, None] + cells * rois.strides[:, None, None]
    return cells, weights


def _fixed_taps(ends, size, output_size, samples, first, width):
    """Computes a block of the taps of a fixed number of samples, two taps per sample.

    Args:
        ends: [n, 2], start and end of the RoIs on this axis, in cells.
        size: [n] int32, cells of the map on this axis.
        output_size: P.
        samples: int, samples per bin.
        first, width: the block, as in `bilinear_taps`.

    Returns:
        cells [n, P, width] int32, weights [n, P, width] float32.
    """
    tap = first + tf.range(width)  # [width]
    number = tf.range(output_size)[:, None] * samples + tap // 2  # [P, width], the tap's sample in the RoI
    sample = (tf.cast(number, tf.float32) + 0.5) / (output_size * samples)  # its position in the RoI, 0 ... 1
    ends, size = ends[..., None, None], size[:, None, None]  # [n, 2, 1, 1], [n, 1, 1]
    # In units of cells, 0 is the first cell's center: [n, P, width].
    inside, position = _clamp(ends[:, 0] - 0.5 + sample * (ends[:, 1] - ends[:, 0]), size)
    cell = tf.floor(position)
    # A sample's even tap is the cell below its position, the odd one the cell above.
    weight = tf.where(tap % 2 == 1, position - cell, 1.0 - (position - cell)) * inside / samples
    cell = tf.minimum(tf.cast(cell, tf.int32) + tap % 2, size - 1)
    return cell, tf.where(tap < 2 * samples, weight, 0.0)


def _adaptive_taps(ends, size, output_size, first, width, oversampling):
    """Computes a block of the taps of an adaptive number of samples; arguments and results as in `_fixed_taps`.

    The taps of a bin are consecutive cells, from the one below the bin's first sample on.
    """
    bins = (ends[:, 1:] - ends[:, :1]) / output_size  # [n, 1], a bin's length
    samples = count_samples(ends[:, 1:] - ends[:, :1], output_size, oversampling)  # [n, 1]
    step = tf.math.divide_no_nan(bins, samples)  # [n, 1], between samples
    # The first sample of each bin: [n, P].
    position = ends[:, :1] - 0.5 + 0.5 * step + tf.range(output_size, dtype=tf.float32) * bins
    first_cell = tf.floor(_clamp(position, size[:, None])[1])
    cell = first_cell[..., None] + tf.cast(first + tf.range(width), tf.float32)  # [n, P, width]

    # A tap's weight is the sum over the bin's samples within one cell of it: at most _NEAR of them, from `nearest` on.
    position, step, samples = position[..., None], step[..., None], samples[..., None]  # [n, P, 1], [n, 1, 1] twice
    nearest = tf.math.divide_no_nan(cell - 1.0 - position, step)
    nearest = tf.clip_by_value(tf.math.ceil(nearest) - 1.0, 0.0, samples)  # [n, P, width]
    number = nearest[..., None] + tf.range(_NEAR, dtype=tf.float32)  # [n, P, width, _NEAR]
    inside, position = _clamp(position[..., None] + number * step[..., None], size[:, None, None, None])
    counts = inside * tf.cast(number < samples[..., None], tf.float32)
    weights = tf.reduce_sum(tf.nn.relu(1.0 - tf.abs(position - cell[..., None])) * counts, axis=-1)  # [n, P, width]
    cells = tf.minimum(tf.cast(cell, tf.int32), size[:, None, None] - 1)
    return cells, tf.math.divide_no_nan(weights, samples)


def _clamp(position, size):
    """Returns 1.0 or 0.0, whether the position counts at all, and the position clamped to the map of that size."""
    size = tf.cast(size, tf.float32)
    inside = tf.cast((position >= -1.0) & (position <= size), tf.float32)
    return inside, tf.clip_by_value(position, 0.0, size - 1.0)
