"""The neck of ViTDet (Li et al., arXiv:2203.16527, section 3): a simple feature pyramid of one map at stride 16."""

from typing import Any

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import LEVELS
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import ChannelNormalization
from htc_tf.ops.pooling import max_pool2d
from htc_tf.ranges import CHANNELS, check_ranges
from htc_tf.structures import FeatureMaps


@gin.register
@check_ranges(channels=CHANNELS)
class SimpleFPN(tf.keras.layers.Layer):
    """Levels resized from the same map, each with two convolutions, and P6 subsampled from P5 for the RPN."""

    def __init__(self, channels: int = 256, name: str = "neck") -> None:
        """channels: int, channels of every level."""
        super().__init__(name=name)
        self.channels = channels
        kind: dict[str, Any] = {"norm": "channel", "initializer": "glorot_uniform"}
        self.reductions = [Convolution(channels, 1, name=f"reduction{level}", **kind) for level in LEVELS]
        self.smoothings = [Convolution(channels, 3, name=f"smoothing{level}", **kind) for level in LEVELS]
        self.upsampling_norm = ChannelNormalization(name="upsampling_norm")

    def build(self, shapes: dict[int, tf.TensorShape]) -> None:
        channels = shapes[4][-1]
        # Two layers for P2, one for P3.
        self.upsamplings = [
            tf.keras.layers.Conv2DTranspose(channels // divisor, 2, 2, name=f"upsampling{i}")
            for i, divisor in enumerate((2, 4, 2), start=1)
        ]

    def call(self, features: FeatureMaps, training: bool | None = None) -> FeatureMaps:
        """Returns {2: P2, ..., 6: P6}, each [B, H / 2^level, W / 2^level, channels], of {4: [B, H / 16, W / 16, C]}."""
        if max(features) > 4:
            raise UserError(
                "SimpleFPN takes C4 alone, so the backbone's C5 would not be trained: bind HTC.neck = @FPN()"
            )
        x = features[4]
        twice = tf.nn.gelu(self.upsampling_norm(self.upsamplings[0](x)), approximate=False)
        resized = (self.upsamplings[1](twice), self.upsamplings[2](x), x, max_pool2d(x, 2, 2))
        pyramid = {
            level: smoothing(reduction(own, training=training), training=training)
            for level, own, reduction, smoothing in zip(LEVELS, resized, self.reductions, self.smoothings, strict=True)
        }
        pyramid[6] = pyramid[5][:, ::2, ::2]  # max pooling with a kernel of 1 and a stride of 2
        return pyramid
