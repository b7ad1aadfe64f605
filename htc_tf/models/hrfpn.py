"""The neck of an HRNet: a high-resolution feature pyramid (Sun et al., arXiv:1904.04514, section 3.2)."""

from typing import Any

import gin
import tensorflow as tf

from htc_tf.models.fpn import check_levels
from htc_tf.models.layers import Convolution
from htc_tf.ranges import CHANNELS, check_ranges
from htc_tf.structures import FeatureMaps


@gin.register
@check_ranges(channels=CHANNELS)
class HRFPN(tf.keras.layers.Layer):
    """Features of all levels, joined at stride 4 and averaged to each level of the pyramid."""

    def __init__(self, channels: int = 256, name: str = "neck") -> None:
        """
        Args:
            channels: int, channels of every level.
        """
        super().__init__(name=name)
        self.channels = channels
        kind: dict[str, Any] = {"initializer": "glorot_uniform"}
        self.reduction = Convolution(channels, 1, name="reduction", **kind)
        self.outputs = [Convolution(channels, 3, name=f"output{level}", **kind) for level in range(2, 7)]

    def call(self, features: FeatureMaps, training: bool | None = None) -> FeatureMaps:
        """Returns {2: P2, ..., 6: P6} of {2: C2, ..., 5: C5}; a level is [B, H // 2^level, W // 2^level, channels].

        P6 of an image below 64 pixels has one row or column.
        """
        check_levels(self, features)
        height, width = features[2].shape[1:3]
        resized = [features[2]]
        for level in (3, 4, 5):
            x = tf.image.resize(features[level], [height, width])  # bilinear, in float32
            resized.append(tf.cast(x, features[level].dtype))
        joined = self.reduction(tf.concat(resized, axis=-1), training=training)  # [B, H / 4, W / 4, channels]
        pyramid = {2: joined}
        wide = tf.cast(joined, tf.float32)  # P6 averages 256 cells: too many to add up in half precision
        for level in range(3, 7):
            # Only whole windows are averaged: P6 has H // 64 rows, where an FPN's has one more if H % 64 is 32.
            window = [min(2 ** (level - 2), side) for side in joined.shape[1:3]]
            pyramid[level] = tf.cast(tf.nn.avg_pool2d(wide, window, window, "VALID"), joined.dtype)
        return {
            level: output(pyramid[level], training=training)
            for level, output in zip(pyramid, self.outputs, strict=True)
        }
