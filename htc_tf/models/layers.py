"""Convolution and normalization layers that the network is built from.

TensorFlow's SAME padding is asymmetric when the stride is 2. The public weights were trained with symmetric padding,
which `Convolution` therefore does explicitly.
"""

from typing import Any

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.switchable import StandardizedConv2D, SwitchableConv2D
from htc_tf.ops.convolution import conv2d
from htc_tf.ops.deformable import deformable_conv2d
from htc_tf.ops.grouped_convolution import grouped_conv2d
from htc_tf.ranges import check_range, choice

BATCH_NORM_EPSILON = 1e-5
CHANNEL_NORM_EPSILON = 1e-6  # detectron2's, ConvNeXt's and ViT's
# Values of the parameter `norm` of all parts.
NORM = choice(None, "frozen_batch", "constant_batch", "batch", "sync_batch", "group", "layer", "channel")


class FrozenBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm on stored statistics in training too, with a trained scale and offset (mmdetection's norm_eval)."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return super().call(inputs, training=False)


class SynchronizedBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm over the images of all replicas, in float32: Keras' own sums bfloat16 squares in bfloat16."""

    def __init__(
        self,
        momentum: float,
        epsilon: float,
        gamma_initializer: str | tf.keras.initializers.Initializer,
        name: str | None = None,
    ) -> None:
        super().__init__(
            momentum=momentum,
            epsilon=epsilon,
            gamma_initializer=gamma_initializer,
            synchronized=True,
            dtype="float32",
            autocast=False,
            name=name,
        )

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.cast(super().call(tf.cast(inputs, tf.float32), training=training), inputs.dtype)


def trained_batch_norms(model: tf.keras.layers.Layer) -> list[tf.keras.layers.Layer]:
    """Returns a model's batch norms whose moving mean and variance are updated by each forward pass in training."""
    norms = [layer for layer in model.submodules if isinstance(layer, tf.keras.layers.BatchNormalization)]
    return [norm for norm in norms if norm.trainable and not isinstance(norm, FrozenBatchNormalization)]


class GroupNormalization(tf.keras.layers.Layer):
    """Group norm (arXiv:1803.08494) over all axes but the first, in groups of channels; one group is layer norm.

    Keras' own computes mean and variance of a reshaped copy: 200 operations a layer in training. Here they are computed
    per channel first, with a quarter of the operations and of the time.
    """

    def __init__(
        self,
        groups: int,
        epsilon: float = BATCH_NORM_EPSILON,
        gamma_initializer: str | tf.keras.initializers.Initializer = "ones",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.groups, self.epsilon, self.gamma_initializer = groups, epsilon, gamma_initializer

    def build(self, shape: tf.TensorShape) -> None:
        if shape[-1] % self.groups:
            layer = tf.get_current_name_scope() or self.name
            raise UserError(f"norm = 'group' needs channels in multiples of {self.groups}, but {layer} has {shape[-1]}")
        self.gamma = self.add_weight("gamma", [shape[-1]], initializer=self.gamma_initializer)
        self.beta = self.add_weight("beta", [shape[-1]], initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x [B, ..., C], normalized, in its own dtype."""
        spatial = list(range(1, len(x.shape) - 1))
        channels = x.shape[-1]
        wide = tf.cast(x, tf.float32)
        mean, variance = tf.nn.moments(wide, spatial) if spatial else (wide, tf.zeros_like(wide))  # [B, C]
        mean = tf.reshape(mean, [-1, self.groups, channels // self.groups])  # [B, groups, C / groups]
        variance = tf.reshape(variance, tf.shape(mean))
        # A group's variance is the mean of its channels' variances plus the variance of their means.
        group_mean, spread = tf.nn.moments(mean, [2], keepdims=True)  # [B, groups, 1]
        group_variance = tf.reduce_mean(variance, 2, keepdims=True) + spread
        gamma = tf.reshape(tf.cast(self.gamma, tf.float32), [self.groups, -1])  # [groups, C / groups]
        beta = tf.reshape(tf.cast(self.beta, tf.float32), [self.groups, -1])
        scale = gamma * tf.math.rsqrt(group_variance + self.epsilon)  # [B, groups, C / groups]
        shape = [-1, *[1] * len(spatial), channels]  # [B, 1, 1, C] for an image
        offset = tf.reshape(beta - scale * group_mean, shape)
        return x * tf.cast(tf.reshape(scale, shape), x.dtype) + tf.cast(offset, x.dtype)


class ChannelNormalization(tf.keras.layers.LayerNormalization):
    """Layer norm over the channels of every cell, computed in float32."""

    def __init__(
        self,
        epsilon: float = CHANNEL_NORM_EPSILON,
        gamma_initializer: str | tf.keras.initializers.Initializer = "ones",
        name: str | None = None,
    ) -> None:
        super().__init__(
            epsilon=epsilon, gamma_initializer=gamma_initializer, dtype="float32", autocast=False, name=name
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x [..., C], normalized, in its own dtype."""
        return tf.cast(super().call(tf.cast(x, tf.float32)), x.dtype)


def make_norm(
    kind: str | None, groups: int = 16, scale: str | tf.keras.initializers.Initializer = "ones"
) -> tf.keras.layers.Layer | None:
    """Returns a new normalization layer, or None.

    Args:
        kind: str or None, one of `NORM`. "frozen_batch" has stored statistics and a trained scale and offset
            (mmdetection); in "constant_batch" nothing is trained (Paddle). "layer" normalizes all cells and channels
            together (arXiv:1607.06450), "channel" the channels of every cell (detectron2's "LN").
        groups: int, number of groups of "group".
        scale: Initializer of the scale.
    """
    check_range("norm", kind, NORM)
    if kind is None:
        return None
    common: dict[str, Any] = {"epsilon": BATCH_NORM_EPSILON, "gamma_initializer": scale, "name": "norm"}
    batch: dict[str, Any] = {"momentum": 0.9, **common}
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
    if kind == "channel":
        return ChannelNormalization(gamma_initializer=scale, name="norm")
    return GroupNormalization(1, **common)


class DenseConv2D(tf.keras.layers.Conv2D):
    """Keras' Conv2D; in training, kernels larger than 1x1 at stride 1 use the gradient of `ops.convolution`.

    Keras passes `training` on from the layers around it. In inference the plain operation stays, because TensorFlow
    cannot fuse bias and ReLU with an operation that has a custom gradient.
    """

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self.strides != (1, 1) or self.kernel_size == (1, 1):
            return super().call(x)
        x = conv2d(x, tf.convert_to_tensor(self.kernel))
        return x if self.bias is None else tf.nn.bias_add(x, self.bias)


class GroupedConv2D(tf.keras.layers.Conv2D):
    """Keras' Conv2D in groups of channels, with a gradient on CPUs too.

    Its kernel is [k, k, C / groups, channels].
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel = tf.convert_to_tensor(self.kernel)
        x = grouped_conv2d(x, kernel, self.strides[0], self.groups, self.padding.upper())
        return x if self.bias is None else tf.nn.bias_add(x, self.bias)


class DeformableConv2D(tf.keras.layers.Conv2D):
    """A deformable convolution (`ops.deformable`) without bias, padded symmetrically.

    A small convolution predicts the offsets of the taps and, in version 2, their weights. All offsets are zero
    initially: version 1 starts as the ordinary convolution, version 2 as half of it.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        version: int = 2,
        deform_groups: int = 1,
        initializer: str | tf.keras.initializers.Initializer = "he_normal",
        name: str | None = None,
    ) -> None:
        """
        Args:
            channels, kernel, stride, groups, initializer: As in `Convolution`.
            version: int, 1 for learned offsets (arXiv:1703.06211), 2 for learned weights of the taps as well
                (arXiv:1811.11168).
            deform_groups: int, groups of input channels that have offsets of their own.
        """
        if version not in (1, 2):
            raise UserError(f"deformable = {version!r} is unknown; choose 1, 2 (modulated) or None")
        # "same" lets Keras build it on a map smaller than the kernel; `call` pads by itself.
        options = {"padding": "same", "use_bias": False, "kernel_initializer": initializer, "name": name}
        super().__init__(channels, kernel, stride, groups=groups, **options)
        self.version = version
        self.margin = (kernel - 1) // 2
        self.offsets = tf.keras.layers.Conv2D(
            deform_groups * (version + 1) * kernel**2, kernel, stride, kernel_initializer="zeros", name="offsets"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [B, ceil(H / stride), ceil(W / stride), channels] of x [B, H, W, C]."""
        margin = [self.margin, self.margin]
        # [B, H', W', deform_groups * (version + 1) * kernel^2]
        offsets, mask = self.offsets(tf.pad(x, [[0, 0], margin, margin, [0, 0]])), None
        if self.version == 2:
            # Two thirds of the channels are offsets and the last third is the mask, as in mmcv.
            *offsets, mask = tf.split(offsets, 3, axis=-1)
            offsets, mask = tf.concat(offsets, axis=-1), tf.sigmoid(mask)
        kernel = tf.convert_to_tensor(self.kernel)
        return deformable_conv2d(x, offsets, mask, kernel, self.strides[0], self.groups)


class Convolution(tf.keras.layers.Layer):
    """A convolution with symmetric padding, then optionally a norm and a ReLU."""

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        norm: str | None = None,
        relu: bool = False,
        bias: bool | None = None,
        initializer: str | tf.keras.initializers.Initializer = "he_normal",
        norm_scale: str | tf.keras.initializers.Initializer = "ones",
        groups: int = 1,
        deformable: int | None = None,
        standardized: bool = False,
        switchable: bool = False,
        name: str | None = None,
    ) -> None:
        """
        Args:
            channels: int, output channels.
            kernel: int, side of the kernel, odd.
            stride: int, 1 or 2.
            norm: str, a kind of `make_norm`, or None.
            relu: If True, the output passes a ReLU.
            bias: If True, a bias is added; None for one where no norm follows.
            initializer: Initializer of the kernel.
            norm_scale: Initializer of the norm's scale.
            groups: int, groups of channels that are convolved separately; several have no bias.
            deformable: int, version 1 or 2 of `DeformableConv2D`, which has no bias either; None for an ordinary
                convolution.
            standardized: If True, the convolution is a `StandardizedConv2D`, which has no bias and no groups either.
            switchable: If True, it is a `SwitchableConv2D`, which has a kernel of 3, no bias, no groups and as
                many inputs as outputs.
        """
        super().__init__(name=name)
        self.margin = (kernel - 1) // 2 if stride > 1 and not (deformable or switchable) else 0
        common = {"kernel_initializer": initializer, "padding": "valid" if self.margin else "same", "name": "conv"}
        if deformable:
            self.convolution = DeformableConv2D(
                channels, kernel, stride, groups, deformable, initializer=initializer, name="conv"
            )
        elif switchable:
            self.convolution = SwitchableConv2D(channels, stride, initializer=initializer, name="conv")
        elif standardized:
            self.convolution = StandardizedConv2D(channels, kernel, stride, **common)
        elif groups > 1:
            self.convolution = GroupedConv2D(channels, kernel, stride, groups=groups, use_bias=False, **common)
        else:
            bias = norm is None if bias is None else bias
            self.convolution = DenseConv2D(channels, kernel, stride, use_bias=bias, **common)
        self.norm = make_norm(norm, scale=norm_scale)
        self.batch_statistics = isinstance(self.norm, tf.keras.layers.BatchNormalization)
        self.relu = relu

    @property
    def offsets(self) -> tf.keras.layers.Layer | None:
        """The convolution that predicts a deformable convolution's offsets, else None."""
        return getattr(self.convolution, "offsets", None)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns [B, ceil(H / stride), ceil(W / stride), channels] of x [B, H, W, C]."""
        if self.margin:
            x = tf.pad(x, [[0, 0], [self.margin, self.margin], [self.margin, self.margin], [0, 0]])
        x = self.convolution(x)
        if self.norm is not None:
            x = self.norm(x, training=training) if self.batch_statistics else self.norm(x)
        return tf.nn.relu(x) if self.relu else x
