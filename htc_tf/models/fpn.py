"""The neck: a feature pyramid network (Lin et al., arXiv:1612.03144)."""

from typing import Any

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.ranges import CHANNELS, check_ranges
from htc_tf.structures import FeatureMaps

LEVELS = (2, 3, 4, 5)


def upsample(x: tf.Tensor, factor: int = 2) -> tf.Tensor:
    """Returns x [B, h, w, C] repeated to [B, factor h, factor w, C].

    XLA on CPU lacks the gradient of nearest-neighbor resizing (TensorFlow 2.15), so cells are repeated instead.
    """
    return tf.repeat(tf.repeat(x, factor, axis=1), factor, axis=2)


def check_levels(neck: tf.keras.layers.Layer, features: FeatureMaps) -> None:
    """Raises a UserError if the backbone's features lack one of the levels of a neck, C2 to C5."""
    if not features.keys() >= set(LEVELS):
        given = ", ".join(f"C{level}" for level in sorted(features))
        raise UserError(
            f"{type(neck).__name__} needs C2 to C5, but the backbone has only {given}: bind HTC.neck = @SimpleFPN(), "
            "which needs C4 alone"
        )


@gin.register
@check_ranges(
    channels=CHANNELS,
    norm=NORM,
)
class FPN(tf.keras.layers.Layer):
    """Feature pyramid of four backbone levels, with P6 subsampled from P5 for the RPN."""

    def __init__(self, channels: int = 256, norm: str | None = None, name: str = "neck") -> None:
        """
        Args:
            channels: int, channels of every level.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        self.channels = channels
        kind: dict[str, Any] = {"norm": norm, "initializer": "glorot_uniform"}
        self.laterals = {str(level): Convolution(channels, 1, name=f"lateral{level}", **kind) for level in LEVELS}
        self.outputs = {str(level): Convolution(channels, 3, name=f"output{level}", **kind) for level in LEVELS}

    def call(self, features: FeatureMaps, training: bool | None = None) -> FeatureMaps:
        """Returns {2: P2, ..., 6: P6} of {2: C2, ..., 5: C5}.

        A level is [B, H / 2^level, W / 2^level, channels]; the sides of P6 are rounded up.
        """
        check_levels(self, features)
        merged = {level: self.laterals[str(level)](features[level], training=training) for level in LEVELS}
        for level in (4, 3, 2):  # the top-down pathway
            merged[level] += upsample(merged[level + 1])
        pyramid = {level: self.outputs[str(level)](merged[level], training=training) for level in LEVELS}
        pyramid[6] = pyramid[5][:, ::2, ::2]  # max pooling with a kernel of 1 and a stride of 2
        return pyramid
