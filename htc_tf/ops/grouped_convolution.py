"""Grouped convolution (ResNeXt, arXiv:1611.05431) that can be trained on CPUs, too.

TensorFlow has one operation for it, which runs on GPUs. On a CPU it has no gradient (TensorFlow's issue 51825), its
forward pass takes up to twice as long as necessary, and under XLA its gradient takes a hundred times as long. There the
groups are joined into blocks of up to 32 channels, each an ordinary convolution whose kernel has the groups' kernels on
its diagonal and zeros elsewhere. Forward and backward pass of 32 groups at 800x1344, in CPU ms with AVX2, float32, on a
machine whose matrix products reach 57 GFLOP per CPU second:

| | 200x336x128 | 100x168x256 | 50x84x512 | 25x42x1024 |
|---|---|---|---|---|
| blocks of 16 channels | 260 | 144 | 83 | |
| blocks of 32 channels | 271 | 151 | 87 | 42 |
| blocks of 64 channels | 433 | 214 | 130 | 71 |
| one block | 718 | 622 | 673 | 807 |

Blocks of 16 channels are twice as many operations, and leave vectors of more than eight numbers half empty. A batch of
matrix products over slices of the map, group by group, took six times as long as blocks.

Groups of one input channel (depthwise convolution) have an operation of their own on CPUs, with fast and deterministic
gradients. With a kernel of 7 x 7, on the same machine, in CPU ms:

| | 200x336x96 | 100x168x192 | 50x84x384 | 25x42x768 |
|---|---|---|---|---|
| forward | 100 | 50 | 30 | 10 |
| gradients of the map and of the kernel | 70 + 80 | 40 + 30 | 20 + 20 | 10 + 20 |

At 200x336x96, blocks of 16 channels take 177 ms forward, 49 products of shifted maps 473 ms forward and 517 ms for the
kernel's gradient. In bfloat16 the operation takes three times as long. XLA's for CPUs takes 1.4 s forward and 3.6 s
backward: it computes a dense convolution, so XLA pays on GPUs only.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import tensorflow as tf

from htc_tf.ops.devices import has_gpu

_BLOCK = 32  # channels
_native = contextvars.ContextVar("native", default=False)


def grouped_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int, groups: int, padding: str) -> tf.Tensor:
    """Computes a convolution in which each group of output channels sees its own group of input channels only.

    The implementation is chosen when it is traced: TensorFlow's operation if there is a GPU, else blocks, or the
    depthwise operation, whose gradient is not deterministic on GPUs, for groups of one input channel. A model for
    CPUs must therefore be exported without a visible GPU (CUDA_VISIBLE_DEVICES=): TensorFlow fuses the operation with
    its norm, which has no CPU kernel. Blocks run on both.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, C / groups, O], of x's type.
        stride: int.
        groups: int, a divisor of C and O.
        padding: "SAME" or "VALID".

    Returns:
        [B, h, w, O].
    """
    if groups == 1 or _native.get() or has_gpu():
        return tf.nn.conv2d(x, kernel, stride, padding)
    if kernel.shape[2] == 1:
        by_channel = tf.reshape(kernel, [*kernel.shape[:2], groups, -1])  # [k, k, C, O / C]
        return tf.nn.depthwise_conv2d(x, by_channel, [1, stride, stride, 1], padding)
    return _convolve_blocks(x, kernel, stride, groups, padding)


@tf.function(autograph=False)
def _convolve_blocks(x, kernel, stride, groups, padding):
    """Computes `grouped_conv2d` by blocks; a tf.function, so that it is traced once for all layers of a shape."""
    side, _, inputs, outputs = kernel.shape
    # Groups in a block: the largest divisor of `groups` with at most _BLOCK input channels.
    joined = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * inputs <= _BLOCK))
    count = groups // joined  # blocks
    diagonal = tf.reshape(tf.eye(joined, dtype=kernel.dtype), [joined, 1, 1, joined, 1])
    # [k, k, 1, C / groups, count, joined, O / groups] times the diagonal: [k, k, joined, C / groups, count, joined, O /
    # groups], zero where the two groups of a block differ.
    kernel = tf.reshape(kernel, [side, side, 1, inputs, count, joined, outputs // groups]) * diagonal
    kernel = tf.reshape(kernel, [side, side, joined * inputs, count, outputs // count])
    blocks = zip(tf.split(x, count, axis=-1), tf.unstack(kernel, axis=3), strict=True)
    return tf.concat([tf.nn.conv2d(part, block, stride, padding) for part, block in blocks], axis=-1)


@contextlib.contextmanager
def native_grouped_convolution() -> Iterator[None]:
    """Returns a context in which TensorFlow's operation is traced on any device: FLOP counts then omit the zeros."""
    token = _native.set(True)
    try:
        yield
    finally:
        _native.reset(token)
