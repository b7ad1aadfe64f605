"""The convolution that every part of the network is built from: symmetric padding, optional norm and ReLU.

TensorFlow's SAME pads unevenly when the stride is 2; the weights that the world has were trained with symmetric
padding, so it is spelled out here, once.
"""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.deformable import DeformableConv2D
from htc_tf.ops.convolution import conv2d
from htc_tf.ops.grouped_convolution import grouped_conv2d

BATCH_NORM_EPSILON = 1e-5


class FrozenBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm on stored statistics, in training too; its scale and offset still learn (mmdetection's norm_eval)."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=False)


class SynchronizedBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm over the images of all replicas, in float32: Keras' own adds up bfloat16's squares in bfloat16."""

    def __init__(self, momentum, epsilon, gamma_initializer, name=None):
        super().__init__(
            momentum=momentum,
            epsilon=epsilon,
            gamma_initializer=gamma_initializer,
            synchronized=True,
            dtype="float32",
            autocast=False,
            name=name,
        )

    def call(self, inputs, training=None):
        return tf.cast(super().call(tf.cast(inputs, tf.float32), training=training), inputs.dtype)


def trained_batch_norms(model):
    """The layers of a model whose moving mean and variance every forward pass in training changes."""
    norms = [layer for layer in model.submodules if isinstance(layer, tf.keras.layers.BatchNormalization)]
    return [norm for norm in norms if norm.trainable and not isinstance(norm, FrozenBatchNormalization)]


class GroupNormalization(tf.keras.layers.Layer):
    """Group norm (arXiv:1803.08494) over all axes but the first, in groups of channels; one group is layer norm.

    Keras' own takes 200 operations for each layer in training where this takes a quarter, and runs as much longer: its
    mean and variance are taken over a reshaped copy, these per channel first.
    """

    def __init__(self, groups, epsilon=BATCH_NORM_EPSILON, gamma_initializer="ones", name=None):
        super().__init__(name=name)
        self.groups, self.epsilon, self.gamma_initializer = groups, epsilon, gamma_initializer

    def build(self, shape):
        if shape[-1] % self.groups:
            raise UserError(f"norm = 'group' divides channels into {self.groups} groups, but a layer has {shape[-1]}")
        self.gamma = self.add_weight("gamma", [shape[-1]], initializer=self.gamma_initializer)
        self.beta = self.add_weight("beta", [shape[-1]], initializer="zeros")

    def call(self, x):
        spatial = list(range(1, len(x.shape) - 1))
        channels = x.shape[-1]
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, spatial) if spatial else (wide, tf.zeros_like(wide))
        mean = tf.reshape(mean, [-1, self.groups, channels // self.groups])
        variance = tf.reshape(variance, tf.shape(mean))
        group_mean, spread = tf.nn.moments(mean, [2], keepdims=True)
        group_variance = tf.reduce_mean(variance, 2, keepdims=True) + spread
        gamma = tf.reshape(tf.cast(self.gamma, tf.float32), [self.groups, -1])
        beta = tf.reshape(tf.cast(self.beta, tf.float32), [self.groups, -1])
        scale = gamma * tf.math.rsqrt(group_variance + self.epsilon)
        shape = [-1, *[1] * len(spatial), channels]
        offset = tf.reshape(beta - scale * group_mean, shape)
        return x * tf.cast(tf.reshape(scale, shape), x.dtype) + tf.cast(offset, x.dtype)


def make_norm(kind, groups=16, scale="ones"):
    """A normalisation layer by name, or None for none.

    "frozen_batch" has stored statistics and a scale and offset that learn (mmdetection), in "constant_batch" nothing
    learns (Paddle); then there are "batch", "sync_batch", "group" and "layer".

    scale: initialiser of its scale.
    """
    if kind is None:
        return None
    common = {"epsilon": BATCH_NORM_EPSILON, "gamma_initializer": scale, "name": "norm"}
    batch = {"momentum": 0.9, **common}
    if kind == "frozen_batch":
        return FrozenBatchNormalization(**batch)
    if kind == "constant_batch":
        return FrozenBatchNormalization(trainable=False, **batch)
    if kind == "batch":
        return tf.keras.layers.BatchNormalization(**batch)
    if kind == "sync_batch":
        return SynchronizedBatchNormalization(**batch)
    if kind == "group":
        return GroupNormalization(groups, **common)
    if kind == "layer":
        return GroupNormalization(1, **common)
    raise UserError(
        f"norm = {kind!r} is unknown; choose 'frozen_batch', 'constant_batch', 'batch', 'sync_batch', 'group', 'layer' "
        "or None"
    )


class DenseConv2D(tf.keras.layers.Conv2D):
    """Keras' own; in training, where there are neighbours to learn from, with the gradient of `ops.convolution`.

    Keras hands `training` down from the layers around it. Without it the plain operation stays, which TensorFlow can
    fuse with bias and ReLU: a gradient of one's own stands between them.
    """

    def call(self, x, training=None):
        if not training or self.strides != (1, 1) or self.kernel_size == (1, 1):
            return super().call(x)
        x = conv2d(x, tf.convert_to_tensor(self.kernel))
        return x if self.bias is None else tf.nn.bias_add(x, self.bias)


class GroupedConv2D(tf.keras.layers.Conv2D):
    """Keras' own in a form that learns on a CPU too, without bias; its kernel is [k, k, C / groups, channels]."""

    def call(self, x):
        kernel = tf.convert_to_tensor(self.kernel)
        return grouped_conv2d(x, kernel, self.strides[0], self.groups, self.padding.upper())


class Convolution(tf.keras.layers.Layer):
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels]: convolution, norm, ReLU."""

    def __init__(
        self,
        channels,
        kernel,
        stride=1,
        norm=None,
        relu=False,
        bias=None,
        initializer="he_normal",
        norm_scale="ones",
        groups=1,
        deformable=None,
        name=None,
    ):
        """
        Args:
            channels: output channels.
            kernel: side of the (odd) kernel.
            stride: 1 or 2.
            norm: a kind that `make_norm` knows, or None.
            relu: whether a ReLU ends it.
            bias: whether to add a bias; by default there is one where no norm follows.
            initializer: of the kernel.
            norm_scale: initialiser of the norm's scale.
            groups: of channels, each of which is convolved by itself; such a convolution has no bias.
            deformable: None, or the version, 1 or 2, of a deformable convolution (`DeformableConv2D`), which has no
                bias either.
        """
        super().__init__(name=name)
        self.margin = (kernel - 1) // 2 if stride > 1 and not deformable else 0
        common = {"kernel_initializer": initializer, "padding": "valid" if self.margin else "same", "name": "conv"}
        if deformable:
            self.convolution = DeformableConv2D(
                channels, kernel, stride, groups, deformable, initializer=initializer, name="conv"
            )
        elif groups > 1:
            self.convolution = GroupedConv2D(channels, kernel, stride, groups=groups, use_bias=False, **common)
        else:
            bias = norm is None if bias is None else bias
            self.convolution = DenseConv2D(channels, kernel, stride, use_bias=bias, **common)
        self.norm = make_norm(norm, scale=norm_scale)
        self.batch_statistics = isinstance(self.norm, tf.keras.layers.BatchNormalization)
        self.relu = relu

    @property
    def offsets(self):
        """The convolution that moves the taps, None where none move."""
        return getattr(self.convolution, "offsets", None)

    def call(self, x, training=None):
        if self.margin:
            x = tf.pad(x, [[0, 0], [self.margin, self.margin], [self.margin, self.margin], [0, 0]])
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x, training=training) if self.batch_statistics else self.norm(x)
        return tf.nn.relu(x) if self.relu else x
