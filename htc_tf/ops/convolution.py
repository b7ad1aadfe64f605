"""Convolution of stride 1 whose gradient takes little memory and time on a CPU, with oneDNN and without it.

TensorFlow's own gradients are oneDNN's where TensorFlow uses it: by default with AVX512-VNNI, BF16 or AMX.
They need no copy of the map, in float32 and in bfloat16. With 256 channels, in CPU ms with AVX-512 and in MB beyond the
inputs:

| float32, oneDNN | 1 x 200 x 336 | 1 x 100 x 168 | 128 x 14 x 14 |
|---|---|---|---|
| of the map: TensorFlow's | 646, 82 | 183, 30 | 244, 20 |
| of the map: rotated kernel | 741, 81 | 180, 30 | 264, 20 |
| of the kernel: TensorFlow's, SAME | 1032, 11 | 242, 11 | 328, 14 |
| of the kernel: strips of 20 rows, padded, VALID | 1105, 94 | | |
| of the kernel: strips of 20 rows, EXPLICIT | 1341, 165 | | |

oneDNN has no gradient of the kernel with EXPLICIT padding: Eigen computes it then, in bfloat16 ten times as slowly.

Without oneDNN both gradients materialize the k x k neighbors of every pixel, nine times the map. For P2 of an image of
800 x 1344 that is 0.6 GB, for both gradients of the FPN together 1.2 GB, a third of the memory of a training step. But
the gradient of the map is a convolution itself, with the kernel rotated by 180 degrees, and the gradient of the kernel
is a sum over strips of the map:

| float32, Eigen, AVX2 | 1 x 200 x 336 | 1 x 100 x 168 | 128 x 14 x 14 |
|---|---|---|---|
| of the map: TensorFlow's | 1106, 754 | 263, 172 | 656, 32 |
| of the map: rotated kernel | 1186, 137 | 285, 24 | 404, 28 |
| of the kernel: TensorFlow's | 1456, 622 | 334, 157 | 540, 21 |
| of the kernel: strips of 20 rows | 1482, 217 | 562, 90 | |
"""

from collections.abc import Sequence

import tensorflow as tf

from htc_tf.ops.devices import has_gpu

KERNEL_EPSILON = 1e-5  # added to the variance of a kernel that is standardized (arXiv:1903.10520)
# Numbers (float32 or bfloat16): a map with more than _LARGE after unrolling is split into strips of at most _STRIP.
_LARGE, _STRIP = 2**26, 2**24


def conv2d(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Computes `tf.nn.conv2d(x, kernel, 1, "SAME")`.

    The gradient is TensorFlow's, too, if there is oneDNN or, when it is traced, a GPU: neither needs that memory. In
    float16 it is not: oneDNN has no float16 on most CPUs, and Eigen would add up the pixels in that type.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, C, O], of x's type; k is odd.

    Returns:
        [B, H, W, O].
    """
    if has_gpu() or (has_onednn() and x.dtype != tf.float16):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    return _conv2d(x, kernel)


def has_onednn() -> bool:
    """Returns True if TensorFlow computes convolutions on a CPU by oneDNN; TF_ENABLE_ONEDNN_OPTS=0 turns it off."""
    try:
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled  # there is no public function
    except ImportError:
        return False
    return IsMklEnabled()


@tf.custom_gradient
def _conv2d(x, kernel):
    def gradient(upstream):
        rotated = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])  # [k, k, O, C]
        return tf.nn.conv2d(upstream, rotated, 1, "SAME"), kernel_gradient(x, upstream, kernel.shape)

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


def dilated_conv2d(x: tf.Tensor, kernel: tf.Tensor, dilation: int) -> tf.Tensor:
    """Computes `tf.nn.conv2d(x, kernel, 1, "SAME", dilations=dilation)`, with a gradient on CPUs too.

    Every `dilation`-th row and column is a map of its own, which an ordinary convolution works on.

    Args:
        x: [B, H, W, C], H and W static.
        kernel: [k, k, C, O], of x's type; k is odd.
        dilation: int.

    Returns:
        [B, H, W, O].
    """
    margin = dilation * (kernel.shape[0] // 2)
    ends = [-side % dilation for side in x.shape[1:3]]  # all maps get the same size
    maps = tf.space_to_batch(x, [dilation] * 2, [[margin, margin + end] for end in ends])
    return tf.batch_to_space(tf.nn.conv2d(maps, kernel, 1, "VALID"), [dilation] * 2, [[0, end] for end in ends])


def kernel_gradient(
    x: tf.Tensor, upstream: tf.Tensor, shape: Sequence[int], large: int = _LARGE, strip: int = _STRIP
) -> tf.Tensor:
    """Computes the kernel's gradient, summed over strips of rows if the map is large.

    Args:
        x: [B, H, W, C].
        upstream: [B, H, W, O], gradient of the convolution's result.
        shape: the kernel's shape, (k, k, C, O).
        large, strip: ints, numbers in an unrolled map that is split, and in an unrolled strip.

    Returns:
        [k, k, C, O].
    """
    side, _, channels, _ = shape
    margin = side // 2
    height, width = x.shape[1:3]
    if None in (height, width) or height * width * side**2 * channels <= large:
        return tf.cast(_kernel_gradient(x, upstream, shape, margin, margin), x.dtype)
    rows = max(strip // (width * side**2 * channels), 1)

    def of_strip(first):
        """Computes a strip's part: its rows of x extend by `margin` on both sides, padded with zeros at the border."""
        last = min(first + rows, height)
        top, bottom = max(first - margin, 0), min(last + margin, height)
        padding = top - first + margin, last + margin - bottom
        return _kernel_gradient(x[:, top:bottom], upstream[:, first:last], shape, *padding)

    return tf.cast(tf.add_n([of_strip(first) for first in range(0, height, rows)]), x.dtype)


def _kernel_gradient(x, upstream, shape, above, below):
    """Computes the kernel's gradient with `above` and `below` rows of zeros around x, in float32 or x's wider type.

    Never with EXPLICIT padding, for which oneDNN has no kernel; and never in float16 or bfloat16, in which Eigen would
    add up the pixels.
    """
    if x.dtype.size == 2:
        x, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
    margin = shape[1] // 2
    same = above == below == margin
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x if same else tf.pad(x, [[0, 0], [above, below], [margin, margin], [0, 0]]),
        filter_sizes=shape,
        out_backprop=upstream,
        strides=[1, 1, 1, 1],
        padding="SAME" if same else "VALID",
    )
