"""The neck: a feature pyramid (Lin et al., arXiv:1612.03144) between the backbone and all heads."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.ranges import CHANNELS, check_ranges


def double(x):
    """Nearest x2. Repeats, since XLA on CPU lacks the gradient of resize-nearest (TensorFlow 2.15)."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


@gin.register
@check_ranges(
    channels=CHANNELS,
)
class FPN(tf.keras.layers.Layer):
    """{2: C2 ... 5: C5} -> {2: P2 ... 6: P6}, all with the same channels; P6 is every other pixel of P5."""

    def __init__(self, channels=256, norm=None, name="neck"):
        super().__init__(name=name)
        levels = (2, 3, 4, 5)
        kind = {"norm": norm, "initializer": "glorot_uniform"}
        self.laterals = {str(level): Convolution(channels, 1, name=f"lateral{level}", **kind) for level in levels}
        self.outputs = {str(level): Convolution(channels, 3, name=f"output{level}", **kind) for level in levels}

    def call(self, features, training=None):
        merged = {level: self.laterals[str(level)](x, training=training) for level, x in features.items()}
        for level in (4, 3, 2):
            merged[level] += double(merged[level + 1])
        pyramid = {level: self.outputs[str(level)](merged[level], training=training) for level in (2, 3, 4, 5)}
        pyramid[6] = pyramid[5][:, ::2, ::2]
        return pyramid
