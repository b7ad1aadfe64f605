"""RoIAlign by gathers of static shape: compiles under XLA, forward and backward.

Per axis a bin is a weighted sum of a few cells, its bilinear taps (`ops.roi_align_taps`); on both axes it is a sum over
pairs of taps: T x T gathers, which XLA fuses into one loop without a temporary.

The number of taps of an adaptive RoI is known only at run time, but shapes must be static. So the RoIs are sorted by
their number of taps and processed in chunks: loops over blocks of 3 x 3, 4 x 4 and 5 x 5 pairs process the RoIs for
which one block suffices, and the last one repeats itself until the largest RoI is complete. No number is capped.

On a CPU the pairs of a block are unrolled. The backward pass takes a few RoIs at a time, so that they stay in the
cache, and adds to the cells that the forward pass has read, one row of taps after the other, one scatter after the
other, into one map: no two threads write to the same cell, and the result is the same from run to run. On a GPU a chunk
has enough RoIs to fill it, and a block is one gather or one scatter, whose sums are computed in the same kernel. A
scatter adds atomically there, in any order; `tf.config.experimental.enable_op_determinism()` fixes the order.
`ops.roi_align_crop` uses this backward pass, too.

Outside of jit_compile both passes are compiled islands in the graph, which on a CPU is faster than running the same
operations one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from htc_tf.ops.devices import has_gpu
from htc_tf.ops.roi_align_taps import FlatRoIs, bilinear_taps, count_taps


class _Pieces(NamedTuple):
    """How the loops divide their work."""

    rois: int  # forward: RoIs in a chunk
    taps: tuple[int, ...]  # forward: taps per axis in a block, of each loop
    bins: int  # backward: bins in a chunk
    block: tuple[int, int]  # backward: rows and columns of taps in a block
    unrolled: bool  # whether each pair of taps is an operation of its own


# Forward: enough work for several threads. Backward: a chunk's part of the gradient fits into a core's own cache.
_ON_CPU = _Pieces(rois=32, taps=(3, 4, 5), bins=4 * 7 * 7, block=(1, 4), unrolled=True)
_ON_GPU = _Pieces(rois=256, taps=(5,), bins=256 * 7 * 7, block=(4, 4), unrolled=False)


class _Chunk(NamedTuple):
    """n RoIs with similar numbers of taps."""

    members: tf.Tensor  # [n] int32, their indices
    rois: FlatRoIs
    counts: tf.Tensor  # [n] float32: 1, or 0 for the RoIs that fill up the last chunk
    num_taps: tf.Tensor  # [2] int32, the largest number of taps on each axis


def prepare(maps: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Flattens maps [B, h_l, w_l, C] of any float type to all cells [B, S, C] float32, and their sizes [L, 2] int32."""
    cells = [tf.reshape(tf.cast(m, tf.float32), [tf.shape(m)[0], -1, m.shape[-1]]) for m in maps]
    return tf.concat(cells, axis=1), tf.stack([tf.shape(m)[1:3] for m in maps])


def pool(
    prepared: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    images: tf.Tensor,
    levels: tf.Tensor,
    output_size: int,
    sampling_ratio: int,
    oversampling: int = 1,
) -> tf.Tensor:
    """Computes RoIAlign of a flat list of RoIs, with a gradient to the maps and none to the boxes.

    The list may be empty only if its length is static, because XLA refuses to gather from an empty tensor.

    Args:
        prepared: the result of `prepare`.
        boxes: [R, 4] in cells of the RoI's level.
        images: [R] int32, index of the RoI's image.
        levels: [R] int32, index of the RoI's map.
        output_size: P.
        sampling_ratio: int, samples per bin and axis; 0 is adaptive, the number of cells in a bin, rounded up.
        oversampling: as in `roi_align_taps.count_samples`.

    Returns:
        [R, P, P, C] float32.
    """
    cells, sizes = prepared  # [B, S, C], [L, 2]
    level_starts = tf.cumsum(tf.reduce_prod(sizes, axis=-1), exclusive=True)  # [L]
    starts = images * tf.shape(cells)[1] + tf.gather(level_starts, levels)  # [R], in the list of B S cells
    sizes = tf.gather(sizes, levels)  # [R, 2]
    rois = FlatRoIs(boxes, sizes, starts, sizes[:, 1])

    @tf.custom_gradient
    def pooled(cells):
        def gradient(upstream):
            summed = scatter(upstream, tf.shape(cells)[0], rois, sampling_ratio, oversampling)
            return tf.reshape(summed, tf.shape(cells))

        return _gather(cells, rois, output_size, sampling_ratio, oversampling), gradient

    return pooled(tf.reshape(cells, [-1, cells.shape[-1]]))  # of [B S, C]


@tf.function(jit_compile=True, autograph=False)
def _gather(cells, rois, output_size, sampling_ratio, oversampling):
    """Computes the forward pass: features [R, P, P, C] from all cells [B S, C]."""

    pieces = _pieces()

    def sum_pairs(row_taps, column_taps):
        """Sums the weighted cells over all pairs of taps, (cells, weights) [n, P, T] each: [n, P, P, C]."""
        if not pieces.unrolled:
            at, weights = _all_pairs(row_taps, column_taps)  # [n, P, P, T, T] each
            return tf.reduce_sum(weights[..., None] * tf.gather(cells, at), axis=(3, 4))
        total = 0.0
        columns, column_weights = (tf.unstack(field, axis=-1) for field in column_taps)  # T of [n, P]
        for row, row_weight in zip(*(tf.unstack(field, axis=-1) for field in row_taps), strict=True):
            pairs = zip(columns, column_weights, strict=True)
            # Index [n, P, 1] + [n, 1, P]: the cell of each bin that this pair of taps reads; [n, P, P, C] gathered.
            part = [w[:, None, :, None] * tf.gather(cells, row[:, :, None] + column[:, None]) for column, w in pairs]
            total += row_weight[:, :, None, None] * tf.add_n(part)
        return total

    total = tf.size(rois.starts)
    if rois.starts.shape[0] == 0:
        return tf.zeros([total, output_size, output_size, cells.shape[-1]])
    if sampling_ratio:
        width = 2 * sampling_ratio
        return sum_pairs(*(bilinear_taps(rois, axis, output_size, sampling_ratio, 0, width) for axis in (0, 1)))
    num_taps, widest = count_taps(rois, output_size, sampling_ratio, oversampling), pieces.taps[-1]  # [R, 2]
    # RoIs are sorted by their number of taps, those with more than the widest loop by their blocks of rows and columns.
    most, blocks = tf.reduce_max(num_taps, axis=-1), -(-num_taps // widest)  # [R], [R, 2]
    sort_key = tf.where(most <= widest, most, widest + blocks[:, 0] * (tf.reduce_max(blocks) + 1) + blocks[:, 1])
    chunk_of, num_taps = _split(rois, num_taps, sort_key, pieces.rois)  # num_taps is now [chunks, 2]

    def add_chunk(number, pooled, width):
        """Adds a chunk's features to pooled [R, P, P, C], with blocks of width x width taps."""
        chunk = chunk_of(number)
        blocks = -(-chunk.num_taps // width) if width == widest else (1, 1)

        def add_block(block, pooled):
            firsts = block // blocks[1] * width, block % blocks[1] * width  # the first tap on each axis
            (rows, row_weights), columns = (
                bilinear_taps(chunk.rois, axis, output_size, 0, first, width, oversampling)
                for axis, first in enumerate(firsts)
            )
            part = sum_pairs((rows, row_weights * chunk.counts[:, None, None]), columns)  # [n, P, P, C]
            return block + 1, tf.tensor_scatter_nd_add(pooled, chunk.members[:, None], part)

        if width < widest:
            return number + 1, add_block(0, pooled)[1]
        return number + 1, tf.while_loop(lambda block, _: block < blocks[0] * blocks[1], add_block, (0, pooled))[1]

    number, pooled = 0, tf.zeros([total, output_size, output_size, cells.shape[-1]])
    for width in pieces.taps:
        # Chunks are sorted: this loop ends before the first one that needs more taps.
        enough = (tf.reduce_max(num_taps, axis=-1) <= width) | (width == widest)
        end = tf.reduce_sum(tf.cast(enough, tf.int32))
        number, pooled = tf.while_loop(
            lambda number, _, end=end: number < end,
            lambda number, pooled, width=width: add_chunk(number, pooled, width),
            (number, pooled),
        )
    return pooled


@tf.function(jit_compile=True, autograph=False)
def scatter(
    upstream: tf.Tensor, count: tf.Tensor, rois: FlatRoIs, sampling_ratio: int, oversampling: int = 1
) -> tf.Tensor:
    """Computes the backward pass.

    Args:
        upstream: [R, P, P, C], gradient of the features.
        count: [] int32, number of cells.
        rois: FlatRoIs.
        sampling_ratio, oversampling: as in `pool`.

    Returns:
        [count, C], gradient of all cells.
    """
    summed = tf.zeros([count, upstream.shape[-1]])
    if rois.starts.shape[0] == 0:
        return summed
    output_size, pieces = upstream.shape[1], _pieces()
    height, width = pieces.block
    num_taps = count_taps(rois, output_size, sampling_ratio, oversampling)  # [R, 2]
    # Sorted by blocks of columns, then by rows: the loops below end with the largest number in the chunk.
    sort_key = -(-num_taps[:, 1] // width) * (tf.reduce_max(num_taps[:, 0]) + 1) + num_taps[:, 0]
    chunk_of, num_taps = _split(rois, num_taps, sort_key, max(pieces.bins // output_size**2, 1))

    def add_chunk(number, summed):
        chunk = chunk_of(number)
        part = tf.gather(upstream, chunk.members) * chunk.counts[:, None, None, None]  # [n, P, P, C]

        def add_columns(first, summed):
            columns = bilinear_taps(chunk.rois, 1, output_size, sampling_ratio, first, width, oversampling)

            def add_rows(row, summed):
                rows = bilinear_taps(chunk.rois, 0, output_size, sampling_ratio, row, height, oversampling)
                return row + height, add_block(summed, rows, columns)

            return first + width, tf.while_loop(lambda row, _: row < chunk.num_taps[0], add_rows, (0, summed))[1]

        def add_block(summed, row_taps, column_taps):
            """Adds to the cells of all pairs of taps, (cells, weights) [n, P, height] and [n, P, width]."""
            if not pieces.unrolled:
                at, weights = _all_pairs(row_taps, column_taps)  # [n, P, P, height, width] each
                values = weights[..., None] * part[:, :, :, None, None]  # [n, P, P, height, width, C]
                return tf.tensor_scatter_nd_add(summed, at[..., None], values)
            rows, row_weights = row_taps  # [n, P, 1] each
            part_of_row = part * row_weights[..., None]  # [n, P, P, C] * [n, P, 1, 1]
            for column, weight in zip(*(tf.unstack(field, axis=-1) for field in column_taps), strict=True):
                # [n, P, 1] + [n, 1, P]: the cell of each bin; values [n, P, P, C].
                at, values = rows + column[:, None], part_of_row * weight[:, None, :, None]
                summed = tf.tensor_scatter_nd_add(summed, at[..., None], values)
            return summed

        return number + 1, tf.while_loop(lambda first, _: first < chunk.num_taps[1], add_columns, (0, summed))[1]

    return tf.while_loop(lambda number, _: number < tf.shape(num_taps)[0], add_chunk, (0, summed))[1]


def _pieces():
    return _ON_GPU if has_gpu() else _ON_CPU


def _all_pairs(row_taps, column_taps):
    """Returns the cells and the weights of all pairs of taps, [n, P, P, T, U] each.

    Args:
        row_taps, column_taps: cells and weights, [n, P, T] and [n, P, U], of `bilinear_taps`.
    """
    (rows, row_weights), (columns, column_weights) = row_taps, column_taps
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None]
    return rows[:, :, None, :, None] + columns[:, None, :, None], weights


def _split(rois, num_taps, sort_key, size):
    """Splits the RoIs, sorted by a key, into chunks of the same size.

    Args:
        rois: FlatRoIs.
        num_taps: [R, 2] int32.
        sort_key: [R] int32.
        size: int, RoIs in a chunk, if there are as many.

    Returns:
        A function from a chunk's number to its _Chunk; and [chunks, 2] int32, each chunk's largest numbers of taps.
    """
    total, size = tf.size(rois.starts), min(size, rois.starts.shape[0] or size)
    chunks = -(-total // size)
    order = tf.argsort(sort_key, stable=True)
    order = tf.reshape(tf.pad(order, [[0, chunks * size - total]]), [chunks, size])  # padded with RoI 0
    counts = tf.reshape(tf.cast(tf.range(chunks * size) < total, tf.float32), [chunks, size])
    num_taps = tf.reduce_max(tf.gather(num_taps, order), axis=1)  # [chunks, 2]

    def chunk_of(number):
        members, chunk_counts, chunk_taps = (tf.gather(field, number) for field in (order, counts, num_taps))
        return _Chunk(members, FlatRoIs(*(tf.gather(field, members) for field in rois)), chunk_counts, chunk_taps)

    return chunk_of, num_taps
