"""Deformable convolution (arXiv:1703.06211), also modulated (arXiv:1811.11168): the kernel's taps have learned offsets.

`models.layers` predicts the offsets and masks by a convolution. A tap's value is bilinear between the four cells
around its position, as in mmcv: cells outside the map count 0, and a tap that is a whole cell or more outside reads
nothing and has no gradient. There are three steps: `_corners` computes these cells and their weights, in small tensors;
`_blend` sums the weighted cells, which gives a map k times as high and wide, tap beside tap; a convolution of stride k
over that map is the deformable one, in groups of channels or not.

`_corners`, and the value and both gradients of `_blend`, are compiled islands: as separate TensorFlow operations the
latter would take two to five times as long. They are traced once for all layers of a shape, whatever their dilation.
The gradient adds to the map one scatter after the other, so that on a CPU no two threads write to the same cell; on a
GPU `tf.config.experimental.enable_op_determinism()` fixes the order. An export has the separate operations.

The large map is not stored for the backward pass but computed again, as in mmcv: it is k * k times as large as the
layer's input. Forward and backward pass then take twice the CPU time of an ordinary convolution: 564 instead of 287 ms
on 100x168x128, 371 instead of 225 ms on 50x84x256; in 64 groups, which are little work themselves, five times: 1133
instead of 222 ms on 50x84x1024.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf

from htc_tf.ops.grouped_convolution import grouped_conv2d

_islands = contextvars.ContextVar("islands", default=True)


@contextlib.contextmanager
def without_islands() -> Iterator[None]:
    """Traces deformable convolutions as TensorFlow operations, for an export: TensorFlow Serving may lack XLA."""
    token = _islands.set(False)
    try:
        yield
    finally:
        _islands.reset(token)


def island(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Wraps a function: inside a tf.function, XLA compiles it, except in the context `without_islands`."""
    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*arguments):
        return compiled(*arguments) if tf.inside_function() and _islands.get() else function(*arguments)

    return call


def deformable_conv2d(
    x: tf.Tensor,
    offsets: tf.Tensor,
    mask: tf.Tensor | None,
    kernel: tf.Tensor,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> tf.Tensor:
    """Computes a deformable convolution with symmetric padding, `dilation` * (k - 1) / 2.

    Args:
        x: [B, H, W, C], any float type.
        offsets: [B, h, w, D k k 2], in cells of x: for each of D groups of channels and each tap of the kernel, row by
            row, its displacement down and to the right (mmcv's order).
        mask: [B, h, w, D k k], factor of each tap's value, or None.
        kernel: [k, k, C / groups, O], of x's type.
        stride: int; h = ceil(H / stride), w = ceil(W / stride).
        groups: int, groups of channels as in `grouped_conv2d`, independent of D.
        dilation: int, cells of x between two neighboring taps that do not move.

    Returns:
        [B, h, w, O] of x's type, with gradients to x, offsets, mask and kernel.
    """
    side, channels = kernel.shape[0], x.shape[-1]
    height, width = tf.unstack(tf.shape(offsets)[1:3])
    # As a tensor, the dilation shares a trace. [N, 4] each, N = B h k w k D.
    index, weights = _corners(offsets, mask, tf.shape(x)[1:3], side, stride, tf.constant(dilation))
    columns = channels // (offsets.shape[-1] // (2 * side * side))  # C / D

    def convolve(x, weights, kernel):
        rows = tf.reshape(tf.cast(x, tf.float32), [-1, columns])  # [B H W D, C / D]
        sampled = _blend(rows, index, weights, x.dtype)  # [N, C / D]
        sampled = tf.reshape(sampled, [-1, side * height, side * width, channels])  # [B, h k, w k, C]
        return grouped_conv2d(sampled, kernel, side, groups, "VALID")

    result = tf.recompute_grad(convolve)(x, weights, kernel)
    return tf.ensure_shape(result, [*offsets.shape[:3], kernel.shape[-1]])


@island
def _corners(offsets, mask, size, side, stride, dilation):
    """Computes the four cells around the position of each tap.

    Args:
        offsets, mask, stride: as in `deformable_conv2d`.
        size: [2] int32, height and width of the map.
        side: int, k.
        dilation: [] int32.

    Returns:
        index: [N, 4] int32, rows of the map as a matrix [B H W D, C / D]; N = B h k w k D, in this order.
        weights: [N, 4] float32.
    """
    batch, height, width = tf.unstack(tf.shape(offsets)[:3])
    groups = offsets.shape[-1] // (2 * side * side)  # D
    # From [B, h, w, D, k, k, 2] to [B, h, k, w, k, D, 2]: tap beside tap, the order of the large map.
    shape, order = [batch, height, width, groups, side, side], [0, 1, 4, 2, 5, 3]
    moved = tf.transpose(tf.reshape(tf.cast(offsets, tf.float32), [*shape, 2]), [*order, 6])
    tap = (tf.range(side) - (side - 1) // 2) * dilation  # -1, 0, 1 for k = 3 without dilation
    rows = tf.reshape(tf.range(height)[:, None] * stride + tap, [height, side, 1, 1, 1])  # broadcasts along w, k, D
    columns = tf.reshape(tf.range(width)[:, None] * stride + tap, [width, side, 1])  # broadcasts along D
    rows, row_weights = _neighbors(moved[..., 0] + tf.cast(rows, tf.float32), size[0])  # [B, h, k, w, k, D, 2] each
    columns, column_weights = _neighbors(moved[..., 1] + tf.cast(columns, tf.float32), size[1])
    weights = row_weights[..., :, None] * column_weights[..., None, :]  # [B, h, k, w, k, D, 2, 2]
    if mask is not None:
        mask = tf.transpose(tf.reshape(tf.cast(mask, tf.float32), shape), order)  # [B, h, k, w, k, D]
        weights *= mask[..., None, None]
    image = tf.reshape(tf.range(batch), [batch, 1, 1, 1, 1, 1, 1, 1])
    index = (image * size[0] + rows[..., :, None]) * size[1] + columns[..., None, :]  # cell of [B H W]
    index = index * groups + tf.range(groups)[:, None, None]  # row of [B H W D]
    return tf.reshape(index, [-1, 4]), tf.reshape(weights, [-1, 4])


def _neighbors(position, size):
    """Returns, on one axis, the two cells [..., 2] around a position [...], clamped to the map, and their weights."""
    inside = (position > -1.0) & (position < tf.cast(size, tf.float32))
    low = tf.floor(position)
    fraction = position - low
    # Far outside, and for NaN, the conversion to integers is undefined.
    first = tf.cast(tf.where(inside, low, 0.0), tf.int32)
    cells = tf.stack([first, first + 1], axis=-1)
    counts = inside[..., None] & (cells >= 0) & (cells < size)
    weights = tf.stack([1.0 - fraction, fraction], axis=-1) * tf.cast(counts, tf.float32)
    return tf.clip_by_value(cells, 0, size - 1), weights


def _blend(rows, index, weights, dtype):
    """Computes weighted sums of four rows each, with gradients to rows and weights.

    Args:
        rows: [S, C] float32.
        index: [N, 4] int32.
        weights: [N, 4] float32.
        dtype: type of the result.

    Returns:
        [N, C].
    """

    @tf.custom_gradient
    def blended(rows, weights):
        def gradient(upstream):
            return _rows_gradient(rows, index, weights, upstream), _weights_gradient(rows, index, upstream)

        return _weighted_sum(rows, index, weights, dtype), gradient

    return blended(rows, weights)


@island
def _weighted_sum(rows, index, weights, dtype):
    """Computes the value of `_blend`, [N, C]."""
    corners = zip(tf.unstack(index, axis=1), tf.unstack(weights, axis=1), strict=True)  # 4 pairs of [N]
    return tf.cast(tf.add_n([tf.gather(rows, cells) * weight[:, None] for cells, weight in corners]), dtype)


@island
def _rows_gradient(rows, index, weights, upstream):
    """Computes the gradient of the rows, [S, C], from that of the sums, [N, C]."""
    upstream, summed = tf.cast(upstream, tf.float32), tf.zeros_like(rows)
    for cells, weight in zip(tf.unstack(index, axis=1), tf.unstack(weights, axis=1), strict=True):
        summed = tf.tensor_scatter_nd_add(summed, cells[:, None], upstream * weight[:, None])
    return summed


@island
def _weights_gradient(rows, index, upstream):
    """Computes the gradient of the weights, [N, 4], scalar products of the rows with the sums' gradient [N, C]."""
    upstream = tf.cast(upstream, tf.float32)
    # A product with ones sums a row in two thirds of the time that XLA's reduction takes on a CPU.
    ones = tf.ones([rows.shape[-1], 1])
    return tf.concat([(tf.gather(rows, cells) * upstream) @ ones for cells in tf.unstack(index, axis=1)], axis=1)
