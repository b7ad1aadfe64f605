"""Normalization layers, and `make_norm`, which makes one from the name that a gin file gives."""

from typing import Any

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops.folded_norm import fold_norm
from htc_tf.ranges import check_range, choice

BATCH_NORM_EPSILON = 1e-5
CHANNEL_NORM_EPSILON = 1e-6  # detectron2's, ConvNeXt's and ViT's
# Values of the parameter `norm` of all parts.
NORM = choice(None, "frozen_batch", "constant_batch", "batch", "sync_batch", "group", "layer", "channel")
# Those that normalize each row of a batch on its own, for layers that also process rows which only pad it.
ROW_NORM = choice(None, "frozen_batch", "constant_batch", "group", "layer", "channel")


class FrozenBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm on stored statistics in training too, with a trained scale and offset (mmdetection's norm_eval)."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return super().call(inputs, training=False)

    def fold(self, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns kernel and bias of a convolution that equals one with `kernel` [k, k, C, O] and then this norm."""
        return fold_norm(kernel, self.gamma, self.beta, self.moving_mean, self.moving_variance + self.epsilon)


class SynchronizedBatchNormalization(tf.keras.layers.BatchNormalization):
    """Batch norm over the images of all replicas, in float32; Keras' own adds up squares of bfloat16 in bfloat16."""

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
        """Returns x [B, ..., C], normalized in float32, in its own dtype."""
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
        return tf.cast(wide * tf.reshape(scale, shape) + offset, x.dtype)


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
