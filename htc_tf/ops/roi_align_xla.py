"""RoIAlign by gathers of static shape: compiles under XLA, forward and backward.

`roi_align` comes before it, with RoIs in cells of their own level; the heads come after it. Its backward direction
serves `roi_align_crop` too.

The idea. Per axis a bin is a weighted sum of a few cells, its taps (`roi_align_taps`); over both axes it is a sum
over pairs of taps: T x T gathers, which XLA fuses into one loop without a temporary.

How many taps an adaptive RoI needs is known only at run time, but shapes must be static. So the RoIs are sorted by
their need and taken in chunks: loops of 3, 4 and 5 taps each go as far as their taps suffice, and the last one
repeats itself over blocks of 5 x 5 pairs until the largest RoI is done. Nothing is capped.

The gradient takes a few RoIs at a time, so that they stay in the cache, and adds what the forward direction read,
row of taps after row, scatter after scatter, into one map: no two threads write to one cell, and on a CPU it is the
same from run to run. On a GPU a scatter adds atomically in any order;
`tf.config.experimental.enable_op_determinism()` fixes the order.

Outside of jit_compile both directions are compiled islands in the graph, which on a CPU is faster than running the
same operations one by one.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.roi_align_taps import RoIs, count_taps, taps

# Forward: RoIs at a time, enough work for several threads; and taps on each axis that are unrolled.
_CHUNK = 32
_TAPS = (3, 4, 5)
# Backward: bins at a time, whose part of the gradient a core's own cache holds; and columns of taps unrolled.
_BINS = 4 * 7 * 7
_COLUMNS = 4


class _Chunk(NamedTuple):
    """RoIs of similar needs."""

    members: tf.Tensor  # [n] int32, which
    rois: RoIs
    counts: tf.Tensor  # [n] float32: 1, but 0 for what only fills up the last chunk
    needs: tf.Tensor  # [2] int32, how many taps on each axis any of them needs


def prepare(maps):
    """Maps [B, h_l, w_l, C] of any float type -> all their cells [B, S, C] float32, and their sizes [L, 2] int32."""
    cells = [tf.reshape(tf.cast(m, tf.float32), [tf.shape(m)[0], -1, m.shape[-1]]) for m in maps]
    return tf.concat(cells, axis=1), tf.stack([tf.shape(m)[1:3] for m in maps])


def pool(prepared, boxes, images, levels, output_size, sampling_ratio, finer=1):
    """RoIAlign of a flat list of RoIs. The maps get a gradient, the boxes none.

    XLA refuses to gather from nothing, so there may be no RoI only if that is known when traced.

    Args:
      prepared: what `prepare` returns.
      boxes: [R, 4] in cells of the RoI's level.
      images: [R] int32, the RoI's image.
      levels: [R] int32, the RoI's map.
      output_size: P.
      sampling_ratio: samples per bin and axis; 0: as many as a bin has cells, rounded up.
      finer: as of `sampling.count_samples`.

    Returns:
      [R, P, P, C] float32.
    """
    cells, sizes = prepared
    level_starts = tf.cumsum(tf.reduce_prod(sizes, axis=-1), exclusive=True)
    starts = images * tf.shape(cells)[1] + tf.gather(level_starts, levels)
    sizes = tf.gather(sizes, levels)
    rois = RoIs(boxes, sizes, starts, sizes[:, 1])

    @tf.custom_gradient
    def pooled(cells):
        def gradient(upstream):
            return tf.reshape(scatter(upstream, tf.shape(cells)[0], rois, sampling_ratio, finer), tf.shape(cells))

        return _gather(cells, rois, output_size, sampling_ratio, finer), gradient

    return pooled(tf.reshape(cells, [-1, cells.shape[-1]]))


@tf.function(jit_compile=True)
def _gather(cells, rois, output_size, sampling_ratio, finer):
    """The forward direction: [S, C] -> [R, P, P, C]."""

    def sum_pairs(row_taps, column_taps):
        total = 0.0
        columns, column_weights = (tf.unstack(field, axis=-1) for field in column_taps)
        for row, row_weight in zip(*(tf.unstack(field, axis=-1) for field in row_taps), strict=True):
            pairs = zip(columns, column_weights, strict=True)
            part = [w[:, None, :, None] * tf.gather(cells, row[:, :, None] + column[:, None]) for column, w in pairs]
            total += row_weight[:, :, None, None] * tf.add_n(part)
        return total

    total = tf.size(rois.starts)
    if rois.starts.shape[0] == 0:
        return tf.zeros([total, output_size, output_size, cells.shape[-1]])
    if sampling_ratio:
        return sum_pairs(*(taps(rois, axis, output_size, sampling_ratio, 0, 2 * sampling_ratio) for axis in (0, 1)))
    needs, widest = count_taps(rois, output_size, sampling_ratio, finer), _TAPS[-1]
    most, blocks = tf.reduce_max(needs, axis=-1), -(-needs // widest)
    order_by = tf.where(most <= widest, most, widest + blocks[:, 0] * (tf.reduce_max(blocks) + 1) + blocks[:, 1])
    chunk_of, needs = _cut(rois, needs, order_by, _CHUNK)

    def take(number, pooled, width):
        chunk = chunk_of(number)
        blocks = -(-chunk.needs // width) if width == widest else (1, 1)

        def add_block(block, pooled):
            firsts = block // blocks[1] * width, block % blocks[1] * width
            (rows, row_weights), columns = (
                taps(chunk.rois, axis, output_size, 0, first, width, finer) for axis, first in enumerate(firsts)
            )
            part = sum_pairs((rows, row_weights * chunk.counts[:, None, None]), columns)
            return block + 1, tf.tensor_scatter_nd_add(pooled, chunk.members[:, None], part)

        if width < widest:
            return number + 1, add_block(0, pooled)[1]
        return number + 1, tf.while_loop(lambda block, _: block < blocks[0] * blocks[1], add_block, (0, pooled))[1]

    number, pooled = 0, tf.zeros([total, output_size, output_size, cells.shape[-1]])
    for width in _TAPS:
        enough = (tf.reduce_max(needs, axis=-1) <= width) | (width == widest)
        end = tf.reduce_sum(tf.cast(enough, tf.int32))
        number, pooled = tf.while_loop(
            lambda number, _, end=end: number < end,
            lambda number, pooled, width=width: take(number, pooled, width),
            (number, pooled),
        )
    return pooled


@tf.function(jit_compile=True)
def scatter(upstream, count, rois, sampling_ratio, finer=1):
    """The backward direction: gradients [R, P, P, C] of the pooled -> [count, C] of all cells."""
    summed = tf.zeros([count, upstream.shape[-1]])
    if rois.starts.shape[0] == 0:
        return summed
    output_size = upstream.shape[1]
    needs = count_taps(rois, output_size, sampling_ratio, finer)
    order_by = -(-needs[:, 1] // _COLUMNS) * (tf.reduce_max(needs[:, 0]) + 1) + needs[:, 0]
    chunk_of, needs = _cut(rois, needs, order_by, max(_BINS // output_size**2, 1))

    def take(number, summed):
        chunk = chunk_of(number)
        part = tf.gather(upstream, chunk.members) * chunk.counts[:, None, None, None]

        def add_columns(first, summed):
            columns, column_weights = taps(chunk.rois, 1, output_size, sampling_ratio, first, _COLUMNS, finer)

            def add_row(row, summed):
                rows, row_weights = taps(chunk.rois, 0, output_size, sampling_ratio, row, 1, finer)
                part_of_row = part * row_weights[..., None]
                for column, weight in zip(
                    tf.unstack(columns, axis=-1), tf.unstack(column_weights, axis=-1), strict=True
                ):
                    cells, values = rows + column[:, None], part_of_row * weight[:, None, :, None]
                    summed = tf.tensor_scatter_nd_add(summed, cells[..., None], values)
                return row + 1, summed

            return first + _COLUMNS, tf.while_loop(lambda row, _: row < chunk.needs[0], add_row, (0, summed))[1]

        return number + 1, tf.while_loop(lambda first, _: first < chunk.needs[1], add_columns, (0, summed))[1]

    return tf.while_loop(lambda number, _: number < tf.shape(needs)[0], take, (0, summed))[1]


def _cut(rois, needs, order_by, size):
    """Cuts the RoIs, in the order of a key, into chunks of one size: a function number -> _Chunk; their needs."""
    total = tf.size(rois.starts)
    chunks = -(-total // size)
    order = tf.argsort(order_by, stable=True)
    order = tf.reshape(tf.pad(order, [[0, chunks * size - total]]), [chunks, size])
    counts = tf.reshape(tf.cast(tf.range(chunks * size) < total, tf.float32), [chunks, size])
    needs = tf.reduce_max(tf.gather(needs, order), axis=1)

    def chunk_of(number):
        members, chunk_counts, chunk_needs = (tf.gather(field, number) for field in (order, counts, needs))
        return _Chunk(members, RoIs(*(tf.gather(field, members) for field in rois)), chunk_counts, chunk_needs)

    return chunk_of, needs
