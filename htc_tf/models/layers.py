"""The convolution that every part of the network is built from: symmetric padding, optional norm and ReLU.

TensorFlow's SAME pads unevenly when the stride is 2; the weights that the world has were trained with symmetric
padding, so it is spelled out here, once.
"""

import tensorflow as tf

from htc_tf.errors import UserError

BATCH_NORM_EPSILON = 1e-5


class FrozenBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm on stored statistics, in training too; its scale and offset still learn (mmdetection's norm_eval)."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=False)


def make_norm(kind, groups=16):
    """A normalisation layer by name: "frozen_batch", "batch", "sync_batch", "group", or None for none."""
    if kind is None:
        return None
    batch = {"momentum": 0.9, "epsilon": BATCH_NORM_EPSILON, "name": "norm"}
    if kind == "frozen_batch":
        return FrozenBatchNormalization(**batch)
    if kind == "batch":
        return tf.keras.layers.BatchNormalization(**batch)
    if kind == "sync_batch":
        return tf.keras.layers.BatchNormalization(synchronized=True, **batch)
    if kind == "group":
        return tf.keras.layers.GroupNormalization(groups, epsilon=BATCH_NORM_EPSILON, name="norm")
    raise UserError(f"norm = {kind!r} is unknown; choose 'frozen_batch', 'batch', 'sync_batch', 'group' or None")


class Convolution(tf.keras.layers.Layer):
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels]: convolution, norm, ReLU."""

    def __init__(self, channels, kernel, stride=1, norm=None, relu=False, bias=None, initializer="he_normal", name=None):
        """
        Args:
            channels: output channels.
            kernel: side of the (odd) kernel.
            stride: 1 or 2.
            norm: a kind that `make_norm` knows, or None.
            relu: whether a ReLU ends it.
            bias: whether to add a bias; by default there is one where no norm follows.
            initializer: of the kernel.
        """
        super().__init__(name=name)
        self.margin = (kernel - 1) // 2 if stride > 1 else 0
        self.convolution = tf.keras.layers.Conv2D(
            channels,
            kernel,
            stride,
            padding="valid" if self.margin else "same",
            use_bias=norm is None if bias is None else bias,
            kernel_initializer=initializer,
            name="conv",
        )
        self.norm = make_norm(norm)
        self.relu = relu

    def call(self, x, training=None):
        if self.margin:
            x = tf.pad(x, [[0, 0], [self.margin, self.margin], [self.margin, self.margin], [0, 0]])
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x, training=training)
        return tf.nn.relu(x) if self.relu else x
