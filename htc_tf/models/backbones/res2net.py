"""Res2Net backbone (Gao et al., arXiv:1904.01169), version "v1b" of its authors and of mmdetection.

Against a ResNet, the 3x3 convolution of a bottleneck becomes several small ones, the stem has three 3x3 convolutions
instead of one of 7x7, and the shortcut at a stride averages before its 1x1 convolution.
"""

import gin
import tensorflow as tf

from htc_tf.models.backbones.resnet import BLOCKS, BOTTLENECK_FROM, ResidualNetwork
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.ops.pooling import average_pool2d
from htc_tf.ranges import check_ranges, choice, whole


class DeepStem(tf.keras.layers.Layer):
    """Three 3x3 convolutions, the first with stride 2 (arXiv:1812.01187, section 4.2)."""

    def __init__(self, channels: int, norm: str | None, name: str) -> None:
        super().__init__(name=name)
        sizes = ((channels // 2, 2), (channels // 2, 1), (channels, 1))
        self.convs = [
            Convolution(outputs, 3, stride, norm=norm, relu=True, name=f"conv{i}")
            for i, (outputs, stride) in enumerate(sizes, start=1)
        ]

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for conv in self.convs:
            x = conv(x, training=training)
        return x


class Res2NetBlock(tf.keras.layers.Layer):
    """A bottleneck with a 3x3 convolution for each group of channels but the last (section 3.1).

    Each of these convolutions also receives the output of the one before, except in the first block of a stage.
    """

    def __init__(
        self, channels: int, group_width: int, groups: int, stride: int, first: bool, norm: str | None, name: str
    ) -> None:
        """
        Args:
            channels: int, a quarter of the output channels.
            group_width: int, channels of a group.
            groups: int, number of groups.
            stride: int, stride of the 3x3 convolutions.
            first: If True, the block is the first of its stage: groups are independent, the shortcut has a convolution.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        self.groups, self.stride, self.first = groups, stride, first
        self.reduce = Convolution(group_width * groups, 1, norm=norm, relu=True, name="reduce")
        self.convs = [
            Convolution(group_width, 3, stride, norm=norm, relu=True, name=f"conv{i}") for i in range(1, groups)
        ]
        # An untrained block starts as the identity, as in `resnet.Block`.
        scale = "zeros" if norm == "frozen_batch" else "ones"
        self.expand = Convolution(4 * channels, 1, norm=norm, norm_scale=scale, name="expand")
        self.projection = Convolution(4 * channels, 1, norm=norm, name="projection") if first else None

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        *groups, last = tf.split(self.reduce(x, training=training), self.groups, axis=-1)
        outputs = []
        for group, conv in zip(groups, self.convs, strict=True):
            if outputs and not self.first:
                group += outputs[-1]
            outputs.append(conv(group, training=training))
        if self.stride > 1:
            # Zeros of the padding count in this average, but not in that of the shortcut.
            last = average_pool2d(tf.pad(last, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, self.stride, "VALID")
            x = average_pool2d(x, self.stride, self.stride, "SAME")
        shortcut = x if self.projection is None else self.projection(x, training=training)
        return tf.nn.relu(self.expand(tf.concat([*outputs, last], axis=-1), training=training) + shortcut)


@gin.register
@check_ranges(
    depth=choice(*(depth for depth in BLOCKS if depth >= BOTTLENECK_FROM)),
    width=whole(2, 1024),
    norm=NORM,
    frozen_stages=whole(-1, 4),
    groups=whole(2, 64),
    group_width=whole(1, 1024),
)
class Res2Net(ResidualNetwork):
    """A Res2Net without its classifier."""

    def __init__(
        self,
        depth: int = 101,
        width: int = 64,
        norm: str | None = "frozen_batch",
        frozen_stages: int = 1,
        groups: int = 4,
        group_width: int = 26,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            depth: int, 50, 101 or 152.
            width: int, channels of the stem; 64 is the published network.
            norm: str, a kind of `norms.make_norm`, or None.
            frozen_stages: int, number of leading stages that are not trained, together with the stem; 0 freezes the
                stem alone, -1 nothing.
            groups, group_width: int, number of groups in a bottleneck (the paper's scales) and channels of a group in
                the first stage, if the stem has 64 channels; otherwise in proportion. 4 and 26 make "26w x 4s". Each
                next stage has twice as many channels.
        """
        super().__init__(name=name)
        self.check_groups(width, group_width)
        self.width = 4 * width
        self.stem = DeepStem(width, norm, name="stem")
        self.stages = []
        for stage, blocks in enumerate(BLOCKS[depth]):  # stage 0 makes C2
            channels = width * 2**stage
            self.stages.append(
                [
                    Res2NetBlock(
                        channels,
                        group_width=channels * group_width // 64,
                        groups=groups,
                        stride=2 if stage > 0 and block == 0 else 1,
                        first=block == 0,
                        norm=norm,
                        name=f"stage{stage + 1}_block{block + 1}",
                    )
                    for block in range(blocks)
                ]
            )
        self.freeze(frozen_stages)
