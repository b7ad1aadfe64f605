"""Switchable atrous convolution (arXiv:2006.02334, section 4), and the standardized convolution that it builds on."""

import math
from typing import Any

import tensorflow as tf

from htc_tf.ops.convolution import KERNEL_EPSILON, conv2d
from htc_tf.ops.deformable import deformable_conv2d
from htc_tf.ops.pooling import average_pool2d

LARGE_DILATION = 3
WINDOW = 5  # cells along each side of the average that the switch and the offsets are predicted from


class StandardizedConv2D(tf.keras.layers.Conv2D):
    """Keras' Conv2D without bias, whose kernel is standardized (arXiv:1903.10520) to a stored mean and deviation.

    An output channel's kernel gets the mean `kernel_mean` and the standard deviation `kernel_deviation`. Both are
    constants, initially those of He's initialization (arXiv:1502.01852); the original's deviation of 1 lets the
    features of an untrained network grow without bound. With the weights of an ordinary convolution they are those
    of its kernel, and its outputs stay the same.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, **options: Any) -> None:
        """
        Args:
            channels, kernel, stride: As in `layers.Convolution`.
            **options: Arguments of Keras' Conv2D.
        """
        super().__init__(channels, kernel, stride, use_bias=False, **options)

    def build(self, shape: tf.TensorShape) -> None:
        super().build(shape)
        self.fan_in = self.kernel.shape.num_elements() // self.filters
        deviation = tf.constant_initializer(math.sqrt(2 / self.fan_in))
        constant = {"shape": [1, 1, 1, self.filters], "trainable": False, "experimental_autocast": False}
        self.kernel_mean = self.add_weight("kernel_mean", initializer="zeros", **constant)
        self.kernel_deviation = self.add_weight("kernel_deviation", initializer=deviation, **constant)

    def standardize(self) -> tf.Tensor:
        """Returns the standardized kernel [k, k, C, channels] float32."""
        kernel = tf.cast(self.kernel, tf.float32)
        mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)  # [1, 1, 1, channels]
        variance *= self.fan_in / (self.fan_in - 1)  # PyTorch's estimate is unbiased
        return (kernel - mean) / tf.sqrt(variance + KERNEL_EPSILON) * self.kernel_deviation + self.kernel_mean

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        kernel = tf.cast(self.standardize(), x.dtype)
        if training and self.strides == (1, 1) and self.kernel_size != (1, 1):
            return conv2d(x, kernel)
        return tf.nn.conv2d(x, kernel, self.strides, self.padding.upper())


class SwitchableConv2D(StandardizedConv2D):
    """A 3x3 convolution that mixes two deformable ones, of dilation 1 and 3, by a switch for every cell.

    It has as many outputs as inputs. Both deformable ones have the standardized kernel, the second plus a learned
    difference. The mean over the map, after a 1x1 convolution, is added to the input and to the output as global
    context. Initially this layer equals the ordinary convolution.
    """

    def __init__(
        self,
        channels: int,
        stride: int = 1,
        initializer: str | tf.keras.initializers.Initializer = "he_normal",
        name: str | None = None,
    ) -> None:
        super().__init__(channels, 3, stride, padding="same", kernel_initializer=initializer, name=name)
        zeros = {"kernel_initializer": "zeros"}
        self.switch = tf.keras.layers.Conv2D(1, 1, stride, bias_initializer="ones", name="switch", **zeros)
        self.small_offsets, self.large_offsets = (
            tf.keras.layers.Conv2D(2 * 3 * 3, 3, stride, name=f"{size}_offsets", **zeros) for size in ("small", "large")
        )
        self.context_before, self.context_after = (
            tf.keras.layers.Conv2D(channels, 1, name=f"context_{place}", **zeros) for place in ("before", "after")
        )

    def build(self, shape: tf.TensorShape) -> None:
        super().build(shape)
        self.kernel_difference = self.add_weight("kernel_difference", self.kernel.shape, initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:  # type: ignore[override]  # it needs no `training`
        """Returns [B, ceil(H / stride), ceil(W / stride), channels] of x [B, H, W, channels]."""
        x += self.context_before(global_mean(x))
        window = window_mean(x)
        switch = self.switch(window)  # [B, H', W', 1]
        window = tf.pad(window, [[0, 0], [1, 1], [1, 1], [0, 0]])  # of zeros, for the 3x3 convolutions
        kernel = self.standardize()
        kernels = kernel, kernel + tf.cast(self.kernel_difference, tf.float32)
        small, large = (
            deformable_conv2d(x, offsets(window), None, tf.cast(kernel, x.dtype), self.strides[0], dilation=dilation)
            for offsets, kernel, dilation in zip(
                (self.small_offsets, self.large_offsets), kernels, (1, LARGE_DILATION), strict=True
            )
        )
        x = switch * small + (1 - switch) * large
        return x + self.context_after(global_mean(x))


def global_mean(x: tf.Tensor) -> tf.Tensor:
    """Returns [B, 1, 1, C], the mean over the map x [B, H, W, C], summed in float32."""
    return tf.cast(tf.reduce_mean(tf.cast(x, tf.float32), [1, 2], keepdims=True), x.dtype)


def window_mean(x: tf.Tensor) -> tf.Tensor:
    """Returns [B, H, W, C], the mean of each cell's 5x5 neighborhood in x [B, H, W, C], reflected at the border."""
    margin = WINDOW // 2
    # A map of one or two cells, of an image below 96 pixels, has nothing to reflect; the original refuses it.
    mode = "REFLECT" if all(side is None or side > margin for side in x.shape[1:3]) else "CONSTANT"
    padded = tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], mode)
    return average_pool2d(padded, WINDOW, 1, "VALID")
