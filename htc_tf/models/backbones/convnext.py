"""ConvNeXt backbone (Liu et al., arXiv:2201.03545).

As in its authors' detectors, each stage's output has a layer norm of its own. Layer norms are over the channels of
every cell, in float32; convolutions and matrix products are in the precision of the run.
"""

from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from htc_tf.models.backbones.swin import make_dense
from htc_tf.models.drop_path import draw_seed, drop_paths, fold_in
from htc_tf.models.layers import GroupedConv2D
from htc_tf.models.norms import ChannelNormalization
from htc_tf.ranges import CHANNELS, Each, check_ranges, number, whole
from htc_tf.structures import FeatureMaps


def make_initializer() -> tf.keras.initializers.Initializer:
    return tf.keras.initializers.TruncatedNormal(stddev=0.02)


def make_downsampling(channels: int, side: int, name: str) -> tf.keras.layers.Conv2D:
    """Returns a convolution whose stride is the kernel's side."""
    return tf.keras.layers.Conv2D(channels, side, side, kernel_initializer=make_initializer(), name=name)


class ConvNeXtBlock(tf.keras.layers.Layer):
    """A depthwise 7x7 convolution, a layer norm and an MLP of two layers, with a shortcut around all of them.

    The scale of each channel before the addition is trained (LayerScale, arXiv:2103.17239).
    """

    def __init__(self, channels: int, layer_scale: float, drop_path: float, name: str) -> None:
        super().__init__(name=name)
        self.layer_scale, self.drop_path = layer_scale, drop_path
        self.depthwise = GroupedConv2D(
            channels, 7, padding="same", groups=channels, kernel_initializer=make_initializer(), name="depthwise"
        )
        self.depthwise_norm = ChannelNormalization(name="depthwise_norm")
        self.expand, self.shrink = make_dense(4 * channels, "expand"), make_dense(channels, "shrink")

    def build(self, shape: tf.TensorShape) -> None:
        self.gamma = self.add_weight("gamma", [shape[-1]], initializer=tf.keras.initializers.Constant(self.layer_scale))

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns [B, H, W, C] of x [B, H, W, C]; seed is [2] int32, or None to drop no path."""
        hidden = tf.nn.gelu(self.expand(self.depthwise_norm(self.depthwise(x))), approximate=False)  # [B, H, W, 4 C]
        return x + drop_paths(self.gamma * self.shrink(hidden), self.drop_path, seed)


@gin.register
@check_ranges(
    channels=CHANNELS,
    depths=Each(whole(1, 100), 4),
    layer_scale=number(above=0, maximum=1),
    drop_path=number(0, below=1),
)
class ConvNeXt(tf.keras.layers.Layer):
    """A ConvNeXt without its classifier. The default is ConvNeXt-T: 28 million parameters, 96 to 768 channels."""

    def __init__(
        self,
        channels: int = 96,
        depths: Sequence[int] = (3, 3, 9, 3),
        layer_scale: float = 1.0,
        drop_path: float = 0.4,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            channels: int, channels of C2; each stage doubles them.
            depths: 4 ints, blocks of each stage.
            layer_scale: float, initial scale of a block's output before it is added to the input.
            drop_path: float, probability of dropping the last block in training; it increases linearly from 0 in the
                first block.
        """
        super().__init__(name=name)
        widths = [channels * 2**stage for stage in range(4)]
        # The stem is a convolution and a norm, the other downsampling layers a norm and a convolution.
        self.downsampling = [[make_downsampling(channels, 4, "stem"), ChannelNormalization(name="stem_norm")]]
        for stage, width in enumerate(widths[1:], start=2):
            parts = [
                ChannelNormalization(name=f"downsampling{stage}_norm"),
                make_downsampling(width, 2, f"downsampling{stage}"),
            ]
            self.downsampling.append(parts)
        rates = iter(np.linspace(0.0, drop_path, sum(depths)).tolist())
        self.stages = [
            [
                ConvNeXtBlock(width, layer_scale, next(rates), name=f"stage{stage}_block{block + 1}")
                for block in range(depth)
            ]
            for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1)
        ]
        self.output_norms = [ChannelNormalization(name=f"norm{stage}") for stage in range(1, 5)]

    def call(self, images: tf.Tensor, training: bool | None = None) -> FeatureMaps:
        """Returns {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32, of normalized images [B, H, W, 3].

        H and W are multiples of 32.
        """
        seed = draw_seed(images, self.output_norms[-1].beta) if training else None
        x, features, number = images, {}, 0
        for stage, blocks in enumerate(self.stages):
            for part in self.downsampling[stage]:
                x = part(x)
            for block in blocks:
                x, number = block(x, fold_in(seed, number)), number + 1
            features[stage + 2] = self.output_norms[stage](x)
        return features
