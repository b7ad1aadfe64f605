"""The chain of 3x3 convolutions in a head: plain, or in residual blocks of two."""

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import Convolution


def make_convs(
    owner: str, channels: int, num_convs: int, norm: str | None = None, residual: bool = False
) -> list[tf.keras.layers.Layer]:
    """Returns the list of layers that a head applies one after the other.

    Args:
        owner: str, name of the head's class, for messages.
        channels: int, output channels of each convolution.
        num_convs: int, number of 3x3 convolutions.
        norm: str, a kind of `norms.make_norm`, or None.
        residual: If True, each two convolutions are a ResidualBlock.
    """
    if not residual:
        return [Convolution(channels, 3, norm=norm, relu=True, name=f"conv{i + 1}") for i in range(num_convs)]
    if num_convs % 2:
        raise UserError(f"{owner}.num_convs = {num_convs}: give an even number, because each residual block has two")
    return [ResidualBlock(owner, channels, norm, name=f"block{i + 1}") for i in range(num_convs // 2)]


def make_initializer() -> tf.keras.initializers.Initializer:
    """Returns PyTorch's default for convolutions, which SCNet keeps: a new block changes its input little."""
    return tf.keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


class ResidualBlock(tf.keras.layers.Layer):
    """Adds the result of two 3x3 convolutions to their input; no ReLU follows (SCNet, arXiv:2012.10150)."""

    def __init__(self, owner: str, channels: int, norm: str | None = None, name: str = "block") -> None:
        """Arguments as in `make_convs`."""
        super().__init__(name=name)
        self.owner, self.channels = owner, channels
        self.conv1 = Convolution(channels, 3, norm=norm, relu=True, initializer=make_initializer(), name="conv1")
        self.conv2 = Convolution(channels, 3, norm=norm, initializer=make_initializer(), name="conv2")

    def build(self, shape: tf.TensorShape) -> None:
        if shape[-1] != self.channels:
            raise UserError(
                f"{self.owner}.channels = {self.channels}, but its residual blocks receive {shape[-1]}: give that"
            )
        super().build(shape)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns [B, H, W, C] of x [B, H, W, C]."""
        return x + self.conv2(self.conv1(x, training=training), training=training)
