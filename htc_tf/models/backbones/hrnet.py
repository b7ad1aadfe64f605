"""HRNet backbone (Sun et al., arXiv:1904.04514): branches at strides 4, 8, 16 and 32 that exchange their features.

The first branch keeps a high resolution from the beginning to the end. Each stage adds a branch with half the
resolution and twice the channels.
"""

from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from htc_tf.models.backbones.resnet import Block
from htc_tf.models.fpn import upsample
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.ranges import CHANNELS, Each, check_ranges, whole
from htc_tf.structures import FeatureMaps

STEM = 64  # channels of the stem, and a quarter of the first stage's


class Fusion(tf.keras.layers.Layer):
    """Takes the features of one branch to the resolution and the channels of another."""

    def __init__(self, source: int, target: int, widths: Sequence[int], norm: str | None, name: str) -> None:
        """
        Args:
            source, target: int, indices of the branches. If they are the same, the features stay.
            widths: ints, channels of the branches.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        self.doublings = max(source - target, 0)
        self.up = Convolution(widths[target], 1, norm=norm, name="up") if self.doublings else None
        self.down = []
        for step in range(source + 1, target + 1):
            last = step == target
            outputs = widths[target if last else source]
            self.down.append(Convolution(outputs, 3, 2, norm=norm, relu=not last, name=f"down{step - source}"))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if self.up is not None:
            x = self.up(x, training=training)
        for _ in range(self.doublings):
            x = upsample(x)
        for conv in self.down:
            x = conv(x, training=training)
        return x


class Exchange(tf.keras.layers.Layer):
    """Residual blocks in each branch; then each branch becomes the sum of all (section 3.1)."""

    def __init__(self, widths: Sequence[int], blocks: int, norm: str | None, name: str) -> None:
        """
        Args:
            widths: ints, channels of the branches.
            blocks: int, blocks in each branch.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        kind: dict[str, Any] = {"stride": 1, "bottleneck": False, "project": False, "norm": norm}
        branches = range(len(widths))
        self.branches = [
            [Block(widths[branch], name=f"branch{branch + 1}_block{block + 1}", **kind) for block in range(blocks)]
            for branch in branches
        ]
        self.fusions = [
            [Fusion(source, target, widths, norm, name=f"fusion{target + 1}_{source + 1}") for source in branches]
            for target in branches
        ]

    def call(self, features: Sequence[tf.Tensor], training: bool | None = None) -> list[tf.Tensor]:
        """Returns the features of the branches, a list of [B, H / 2^i, W / 2^i, widths[i]] as given."""
        refined = []
        for x, blocks in zip(features, self.branches, strict=True):
            for block in blocks:
                x = block(x, training=training)
            refined.append(x)
        return [
            tf.nn.relu(sum(fusion(x, training=training) for fusion, x in zip(row, refined, strict=True)))
            for row in self.fusions
        ]


@gin.register
@check_ranges(
    width=CHANNELS,
    blocks=whole(1, 100),
    exchanges=Each(whole(1, 100), count=3),
    norm=NORM,
)
class HRNet(tf.keras.layers.Layer):
    """An HRNet without its classifier; the first stage has one branch of bottlenecks, as in a ResNet."""

    def __init__(
        self,
        width: int = 32,
        blocks: int = 4,
        exchanges: Sequence[int] = (1, 4, 3),
        norm: str | None = "frozen_batch",
        name: str = "backbone",
    ) -> None:
        """
        Args:
            width: int, channels of the branch at stride 4: 18, 32 or 40 in the published networks.
            blocks: int, blocks in each branch between two exchanges, and in the first stage.
            exchanges: ints, exchanges in the stages of two, three and four branches.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        kind: dict[str, Any] = {"norm": norm, "relu": True}
        self.conv1 = Convolution(STEM, 3, 2, name="conv1", **kind)
        self.conv2 = Convolution(STEM, 3, 2, name="conv2", **kind)
        self.bottlenecks = [
            Block(STEM, stride=1, bottleneck=True, project=block == 0, norm=norm, name=f"stage1_block{block + 1}")
            for block in range(blocks)
        ]
        widths = [width * 2**branch for branch in range(4)]
        self.first_branch = Convolution(width, 3, name="first_branch", **kind)
        self.new_branches = [Convolution(widths[i], 3, 2, name=f"new_branch{i + 1}", **kind) for i in (1, 2, 3)]
        self.stages = [
            [
                Exchange(widths[: stage + 2], blocks, norm, name=f"stage{stage + 2}_exchange{i + 1}")
                for i in range(count)
            ]
            for stage, count in enumerate(exchanges)
        ]

    def call(self, images: tf.Tensor, training: bool | None = None) -> FeatureMaps:
        """Returns {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32, of normalized images [B, H, W, 3].

        H and W are multiples of 32.
        """
        x = self.conv2(self.conv1(images, training=training), training=training)  # [B, H / 4, W / 4, STEM]
        for block in self.bottlenecks:
            x = block(x, training=training)
        features, last = [self.first_branch(x, training=training)], x
        for new_branch, exchanges in zip(self.new_branches, self.stages, strict=True):
            features = [*features, new_branch(last, training=training)]
            for exchange in exchanges:
                features = exchange(features, training=training)
            last = features[-1]
        return dict(enumerate(features, start=2))
