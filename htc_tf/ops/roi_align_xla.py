"""RoIAlign by gathers of static shape: compiles under XLA, forward and backward.

`roi_align` comes before it, with RoIs in cells of their own level; the heads come after it.

The idea. Per axis a bin is a weighted sum of a few cells, its taps; over both axes it is a sum over pairs of taps:
T x T gathers, which XLA fuses into one loop without a temporary. s fixed samples per bin and axis have T = 2 s taps.
Adaptive samples lie at most one cell apart, so those of one bin share cells: g of them touch g + 1 cells, and
(g + 1)^2 gathers do the work of 4 g^2.

How many taps a RoI needs is known only at run time, but shapes must be static. So the RoIs are sorted by their need
and taken in chunks: three loops, of 3, 5 and 9 taps, each go as far as their taps suffice, and the last one
repeats itself over blocks of 9 taps until the largest RoI is done. Nothing is capped.

The gradient takes the same chunks and adds what the forward direction read, scatter after scatter, into one map: no
two threads write to one cell, and on a CPU it is the same from run to run. On a GPU a scatter adds atomically in any
order; `tf.config.experimental.enable_op_determinism()` fixes the order.

Outside of jit_compile both directions are compiled islands in the graph, which on a CPU is faster than running the
same operations one by one.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.sampling import count_samples

_CHUNK = 32
_TAPS = (3, 5, 9)
# Samples of one bin that can lie within a cell of a given cell: they are more than 1/2 apart. One more for rounding
# at either end.
_NEAR = 6


class _RoIs(NamedTuple):
    """RoIs and where the map of each lies."""

    boxes: tf.Tensor  # [R, 4] in cells of the RoI's level
    sizes: tf.Tensor  # [R, 2] int32, height and width of the RoI's map
    starts: tf.Tensor  # [R] int32, the map's first cell among all cells


class _Taps(NamedTuple):
    """Which cells make the bins of n RoIs, and how much each counts."""

    rows: tf.Tensor  # [n, P, T] int32, the first cell of the tap's row among all cells
    row_weights: tf.Tensor  # [n, P, T]
    columns: tf.Tensor  # [n, P, T] int32
    column_weights: tf.Tensor  # [n, P, T]


def prepare(maps):
    """Maps [B, h_l, w_l, C] of any float type -> all their cells [B, S, C] float32, and their sizes [L, 2] int32."""
    cells = [tf.reshape(tf.cast(m, tf.float32), [tf.shape(m)[0], -1, m.shape[-1]]) for m in maps]
    return tf.concat(cells, axis=1), tf.stack([tf.shape(m)[1:3] for m in maps])


def pool(prepared, boxes, images, levels, output_size, sampling_ratio):
    """RoIAlign of a flat list of RoIs. The maps get a gradient, the boxes none.

    XLA refuses to gather from nothing, so there may be no RoI only if that is known when traced.

    Args:
      prepared: what `prepare` returns.
      boxes: [R, 4] in cells of the RoI's level.
      images: [R] int32, the RoI's image.
      levels: [R] int32, the RoI's map.
      output_size: P.
      sampling_ratio: samples per bin and axis; 0: as many as a bin has cells, rounded up.

    Returns:
      [R, P, P, C] float32.
    """
    cells, sizes = prepared
    level_starts = tf.cumsum(tf.reduce_prod(sizes, axis=-1), exclusive=True)
    starts = images * tf.shape(cells)[1] + tf.gather(level_starts, levels)
    rois = _RoIs(boxes, tf.gather(sizes, levels), starts)

    @tf.custom_gradient
    def pooled(cells):
        def gradient(upstream):
            summed = _scatter(upstream, tf.shape(cells)[0], rois, output_size, sampling_ratio)
            return tf.reshape(summed, tf.shape(cells))

        return _gather(cells, rois, output_size, sampling_ratio), gradient

    return pooled(tf.reshape(cells, [-1, cells.shape[-1]]))


@tf.function(jit_compile=True)
def _gather(cells, rois, output_size, sampling_ratio):
    """The forward direction: [S, C] -> [R, P, P, C]."""

    def step(pooled, members, taps, _):
        rows, columns = tf.unstack(taps.rows[:, :, None], axis=-1), tf.unstack(taps.columns[:, None], axis=-1)
        row_weights = tf.unstack(taps.row_weights[:, :, None, None], axis=-1)
        column_weights = tf.unstack(taps.column_weights[:, None, :, None], axis=-1)
        total = 0.0
        for row, row_weight in zip(rows, row_weights, strict=True):
            pairs = zip(columns, column_weights, strict=True)
            total += row_weight * tf.add_n([weight * tf.gather(cells, row + column) for column, weight in pairs])
        return tf.tensor_scatter_nd_add(pooled, members[:, None], total)

    shape = [tf.size(rois.starts), output_size, output_size, cells.shape[-1]]
    return _walk(rois, output_size, sampling_ratio, step, tf.zeros(shape))


@tf.function(jit_compile=True)
def _scatter(upstream, count, rois, output_size, sampling_ratio):
    """The backward direction: [R, P, P, C] -> [S, C]."""

    def step(summed, members, taps, used):
        part = tf.gather(upstream, members)

        def add_pair(pair, summed):
            row, row_weight = (tf.gather(field, pair // used[1], axis=2) for field in taps[:2])
            column, column_weight = (tf.gather(field, pair % used[1], axis=2) for field in taps[2:])
            weight = row_weight[:, :, None] * column_weight[:, None, :]
            cell = row[:, :, None] + column[:, None, :]
            return pair + 1, tf.tensor_scatter_nd_add(summed, cell[..., None], part * weight[..., None])

        return tf.while_loop(lambda pair, _: pair < used[0] * used[1], add_pair, (0, summed))[1]

    return _walk(rois, output_size, sampling_ratio, step, tf.zeros([count, upstream.shape[-1]]))


def _walk(rois, output_size, sampling_ratio, step, state):
    """Takes all RoIs in chunks, each with taps enough: state = step(state, members, taps, used).

    `members` [n] int32 are the chunk's RoIs; the last chunk is filled up with RoIs whose taps weigh nothing.
    `used` [2] int32 says how many of the taps on each axis any RoI of the chunk needs.
    """
    if rois.starts.shape[0] == 0:
        return state
    total = tf.size(rois.starts)
    chunks = -(-total // _CHUNK)
    if sampling_ratio:
        needs, widths = tf.fill([total, 2], 2 * sampling_ratio), (2 * sampling_ratio,)
    else:
        samples = tf.cast(count_samples(rois.boxes[:, 2:] - rois.boxes[:, :2], output_size), tf.int32)
        needs, widths = tf.minimum(samples + 1, rois.sizes), _TAPS
    order = tf.argsort(tf.reduce_max(needs, axis=-1), stable=True)
    order = tf.reshape(tf.pad(order, [[0, chunks * _CHUNK - total]]), [chunks, _CHUNK])
    real = tf.reshape(tf.range(chunks * _CHUNK) < total, [chunks, _CHUNK])
    needs = tf.reduce_max(tf.gather(needs, order), axis=1)

    def take(chunk, state, width):
        members = tf.gather(order, chunk)
        boxes, sizes, starts = (tf.gather(field, members) for field in rois)
        weight = tf.cast(tf.gather(real, chunk), tf.float32)[:, None, None]

        def block(state, first):
            (rows, row_weights), (columns, column_weights) = (
                _adaptive_taps(boxes[:, axis::2], sizes[:, axis], output_size, first[axis], width)
                if sampling_ratio == 0
                else _fixed_taps(boxes[:, axis::2], sizes[:, axis], output_size, sampling_ratio)
                for axis in (0, 1)
            )
            rows = starts[:, None, None] + rows * sizes[:, 1, None, None]
            taps = _Taps(rows, row_weights * weight, columns, column_weights)
            return step(state, members, taps, tf.minimum(tf.gather(needs, chunk) - first, width))

        if sampling_ratio or width < widths[-1]:
            return chunk + 1, block(state, (0, 0))
        blocks = -(-tf.gather(needs, chunk) // width)
        return chunk + 1, tf.while_loop(
            lambda number, _: number < blocks[0] * blocks[1],
            lambda number, state: (number + 1, block(state, (number // blocks[1] * width, number % blocks[1] * width))),
            (0, state),
        )[1]

    chunk = 0
    for width in widths:
        enough = tf.reduce_max(needs, axis=-1) <= width
        end = chunks if width == widths[-1] else tf.reduce_sum(tf.cast(enough, tf.int32))
        chunk, state = tf.while_loop(
            lambda chunk, _, end=end: chunk < end,
            lambda chunk, state, width=width: take(chunk, state, width),
            (chunk, state),
        )
    return state


def _fixed_taps(ends, size, output_size, samples):
    """Taps of a fixed number of samples, two a sample.

    Args:
      ends: [n, 2] where the RoIs begin and end on this axis, in cells.
      size: [n] int32, cells of the map on this axis.
      output_size: P.
      samples: s per bin.

    Returns:
      Cells [n, P, 2 s] int32 and weights [n, P, 2 s].
    """
    size = size[:, None]
    sample = (tf.range(output_size * samples, dtype=tf.float32) + 0.5) / (output_size * samples)
    place = ends[:, :1] - 0.5 + sample * (ends[:, 1:] - ends[:, :1])
    inside, place = _clamp(place, size)
    cell = tf.floor(place)
    above = (place - cell) * inside / samples
    cell = tf.cast(cell, tf.int32)
    cells = tf.stack([cell, tf.minimum(cell + 1, size - 1)], axis=-1)
    weights = tf.stack([inside / samples - above, above], axis=-1)
    shape = [-1, output_size, 2 * samples]
    return tf.reshape(cells, shape), tf.reshape(weights, shape)


def _adaptive_taps(ends, size, output_size, first, width):
    """A block of the taps of adaptively many samples: those from `first` on, `width` of them.

    Args and returns as `_fixed_taps`; cells and weights are [n, P, width].
    """
    bins = (ends[:, 1:] - ends[:, :1]) / output_size
    samples = count_samples(ends[:, 1:] - ends[:, :1], output_size)
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
