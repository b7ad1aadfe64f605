"""A convolution in groups of channels (ResNeXt, arXiv:1611.05431), that learns on a CPU too.

Before it: a feature map and the kernel of a layer (`models.layers`), or what `deformable` sampled. After it: the map of
the next layer.

TensorFlow has one operation for it. On a GPU that is what runs. On a CPU it has no gradient (TensorFlow's issue 51825),
its forward pass takes up to twice as long as it need, and under XLA its gradient takes a hundred times as long. So
there the groups are joined into blocks of up to 32 channels, each an ordinary convolution whose kernel holds the
groups' kernels on its diagonal and zeros elsewhere. Forward and backward of 32 groups at 800x1344, in CPU ms with AVX2,
float32, where matrix products run at 57 GFLOP a CPU second:

| | 200x336x128 | 100x168x256 | 50x84x512 | 25x42x1024 |
|---|---|---|---|---|
| blocks of 16 channels | 260 | 144 | 83 | |
| blocks of 32 channels | 271 | 151 | 87 | 42 |
| blocks of 64 channels | 433 | 214 | 130 | 71 |
| one block | 718 | 622 | 673 | 807 |

Blocks of 16 are twice as many operations, and leave vectors of more than eight numbers half empty. A batch of matrix
products over slices of the map, group by group, took six times as long as blocks.
"""

import contextlib
import contextvars

import tensorflow as tf

_BLOCK = 32
_one_operation = contextvars.ContextVar("one_operation", default=False)


def grouped_conv2d(x, kernel, stride, groups, padding):
    """Each of the groups of output channels sees only its own group of input channels.

    Which form it takes is decided when it is traced: TensorFlow's operation where there is a GPU, else blocks. So what
    is to run on CPUs must not be exported in sight of a GPU (CUDA_VISIBLE_DEVICES=): TensorFlow fuses the operation
    with its norm, for which a CPU has no kernel. Blocks run on both.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C / groups, O], of x's type.
      stride: int.
      groups: int, a divisor of C and O.
      padding: "SAME" or "VALID".

    Returns:
      [B, h, w, O].
    """
    if groups == 1 or _one_operation.get() or tf.config.list_logical_devices("GPU"):
        return tf.nn.conv2d(x, kernel, stride, padding)
    return _in_blocks(x, kernel, stride, groups, padding)


@tf.function(autograph=False)
def _in_blocks(x, kernel, stride, groups, padding):
    """As above; a function so that its many operations are traced once for all layers of a shape."""
    side, _, inputs, outputs = kernel.shape
    joined = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * inputs <= _BLOCK))
    count = groups // joined
    diagonal = tf.reshape(tf.eye(joined, dtype=kernel.dtype), [joined, 1, 1, joined, 1])
    kernel = tf.reshape(kernel, [side, side, 1, inputs, count, joined, outputs // groups]) * diagonal
    kernel = tf.reshape(kernel, [side, side, joined * inputs, count, outputs // count])
    blocks = zip(tf.split(x, count, axis=-1), tf.unstack(kernel, axis=3), strict=True)
    return tf.concat([tf.nn.conv2d(part, block, stride, padding) for part, block in blocks], axis=-1)


@contextlib.contextmanager
def one_operation():
    """What is traced in this context takes TensorFlow's operation anywhere: to count its FLOPs without the zeros."""
    token = _one_operation.set(True)
    try:
        yield
    finally:
        _one_operation.reset(token)
