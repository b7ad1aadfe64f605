"""Deformable convolution (arXiv:1703.06211), and modulated (arXiv:1811.11168): a kernel whose taps lie where they want.

Before it: a map, and where and how much each tap reads of it, which a convolution foretells (`models.deformable`).
After it: the map of the next layer.

A tap's value is bilinear between the four cells around its place, as mmcv has it: cells outside of the map count 0,
and a tap that lies a whole cell or more outside reads nothing and learns nothing. So three steps, each a function:
`_corners` says which cells and how much of each, in small tensors; `_blend` adds up those cells, which makes a map k
times as high and wide, tap beside tap; a convolution of stride k over that map is the deformable one, in groups of
channels or not.

`_corners`, and the value and the two gradients of `_blend`, are compiled islands: as TensorFlow's own operations the
latter would take two to five times as long. They are traced once for all layers of a shape. The gradient adds to the
map scatter after scatter, so no two threads write to one cell on a CPU; on a GPU
`tf.config.experimental.enable_op_determinism()` fixes the order.

The large map is not kept for the backward pass but made anew, as mmcv does: it has k * k times the size of the layer's
input. Forward and backward then take twice the CPU time of an ordinary convolution: 564 ms for 287 on 100x168x128, 371
for 225 on 50x84x256; in 64 groups, which are little work themselves, five times: 1133 for 222 on 50x84x1024.
"""

import tensorflow as tf

from htc_tf.ops.grouped_convolution import grouped_conv2d


def deformable_conv2d(x, offsets, mask, kernel, stride=1, groups=1):
    """Convolves with padding (k - 1) / 2 and dilation 1.

    Args:
      x: [B, H, W, C], any float type.
      offsets: [B, h, w, D k k 2], in cells of x: of each of D groups of channels, for each tap of the kernel, row by
        row, how much further down and right than usual it lies; mmcv's order.
      mask: [B, h, w, D k k], what each tap's value is multiplied by, or None.
      kernel: [k, k, C / groups, O], of x's type.
      stride: from one cell of the result to the next; h = ceil(H / stride), w = ceil(W / stride).
      groups: of channels, as in `grouped_conv2d`; D is another number.

    Returns:
      [B, h, w, O] of x's type, with gradients to x, offsets, mask and kernel.
    """
    side, channels = kernel.shape[0], x.shape[-1]
    height, width = tf.unstack(tf.shape(offsets)[1:3])
    index, weights = _corners(offsets, mask, tf.shape(x)[1:3], side, stride)
    columns = channels // (offsets.shape[-1] // (2 * side * side))

    def convolve(x, weights, kernel):
        sampled = _blend(tf.reshape(tf.cast(x, tf.float32), [-1, columns]), index, weights, x.dtype)
        sampled = tf.reshape(sampled, [-1, side * height, side * width, channels])
        return grouped_conv2d(sampled, kernel, side, groups, "VALID")

    result = tf.recompute_grad(convolve)(x, weights, kernel)
    return tf.ensure_shape(result, [*offsets.shape[:3], kernel.shape[-1]])


@tf.function(jit_compile=True, autograph=False)
def _corners(offsets, mask, size, side, stride):
    """The four cells around the place of each tap.

    Args:
      size: [2] int32, height and width of the map.
      offsets, mask, side (k), stride: as above.

    Returns:
      Cells [N, 4] int32, which count the rows of the map taken as a matrix [B H W D, C / D], and their weights [N, 4]
      float32, N = B h k w k D in this order.
    """
    batch, height, width = tf.unstack(tf.shape(offsets)[:3])
    groups = offsets.shape[-1] // (2 * side * side)
    shape, order = [batch, height, width, groups, side, side], [0, 1, 4, 2, 5, 3]
    moved = tf.transpose(tf.reshape(tf.cast(offsets, tf.float32), [*shape, 2]), [*order, 6])
    tap = tf.range(side) - (side - 1) // 2
    rows = tf.reshape(tf.range(height)[:, None] * stride + tap, [height, side, 1, 1, 1])
    columns = tf.reshape(tf.range(width)[:, None] * stride + tap, [width, side, 1])
    rows, row_weights = _ends(moved[..., 0] + tf.cast(rows, tf.float32), size[0])
    columns, column_weights = _ends(moved[..., 1] + tf.cast(columns, tf.float32), size[1])
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    if mask is not None:
        mask = tf.transpose(tf.reshape(tf.cast(mask, tf.float32), shape), order)
        weights *= mask[..., None, None]
    image = tf.reshape(tf.range(batch), [batch, 1, 1, 1, 1, 1, 1, 1])
    index = (image * size[0] + rows[..., :, None]) * size[1] + columns[..., None, :]
    index = index * groups + tf.range(groups)[:, None, None]
    return tf.reshape(index, [-1, 4]), tf.reshape(weights, [-1, 4])


def _ends(place, size):
    """On one axis, the two cells [..., 2] that a place lies between, kept inside of the map, and their weights."""
    inside = (place > -1.0) & (place < tf.cast(size, tf.float32))
    low = tf.floor(place)
    above = place - low
    # Far away, and for what is not a number, a conversion to integers is undefined.
    first = tf.cast(tf.where(inside, low, 0.0), tf.int32)
    cells = tf.stack([first, first + 1], axis=-1)
    counts = inside[..., None] & (cells >= 0) & (cells < size)
    weights = tf.stack([1.0 - above, above], axis=-1) * tf.cast(counts, tf.float32)
    return tf.clip_by_value(cells, 0, size - 1), weights


def _blend(rows, index, weights, dtype):
    """Weighted sums of four rows each: [S, C] float32 -> [N, C] of `dtype`, with gradients to rows and weights."""

    @tf.custom_gradient
    def blended(rows, weights):
        def gradient(upstream):
            return _scatter(rows, index, weights, upstream), _multiply(rows, index, upstream)

        return _gather(rows, index, weights, dtype), gradient

    return blended(rows, weights)


@tf.function(jit_compile=True, autograph=False)
def _gather(rows, index, weights, dtype):
    """The value."""
    corners = zip(tf.unstack(index, axis=1), tf.unstack(weights, axis=1), strict=True)
    return tf.cast(tf.add_n([tf.gather(rows, cells) * weight[:, None] for cells, weight in corners]), dtype)


@tf.function(jit_compile=True, autograph=False)
def _scatter(rows, index, weights, upstream):
    """The gradient of the rows."""
    upstream, summed = tf.cast(upstream, tf.float32), tf.zeros_like(rows)
    for cells, weight in zip(tf.unstack(index, axis=1), tf.unstack(weights, axis=1), strict=True):
        summed = tf.tensor_scatter_nd_add(summed, cells[:, None], upstream * weight[:, None])
    return summed


@tf.function(jit_compile=True, autograph=False)
def _multiply(rows, index, upstream):
    """The gradient of the weights: scalar products."""
    upstream = tf.cast(upstream, tf.float32)
    # A product with ones adds up a row in two thirds of the time that XLA takes to reduce it on a CPU.
    ones = tf.ones([rows.shape[-1], 1])
    return tf.concat([(tf.gather(rows, cells) * upstream) @ ones for cells in tf.unstack(index, axis=1)], axis=1)
