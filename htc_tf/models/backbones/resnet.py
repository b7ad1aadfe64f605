"""ResNet (arXiv:1512.03385) and ResNeXt (arXiv:1611.05431) backbones, optionally with deformable convolutions.

The 3x3 convolution of a bottleneck has its stride, as in torchvision and mmdetection ("pytorch" style), or by choice
the first 1x1 convolution, as in the original (MSRA, "caffe" style). Switchable convolutions and the feedback of a
feature pyramid make it the backbone of DetectoRS (arXiv:2006.02334).
"""

from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.ranges import FLAG, Each, check_ranges, choice, whole
from htc_tf.structures import FeatureMaps

BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECK_FROM = 50


class Block(tf.keras.layers.Layer):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1 with four times as many outputs."""

    def __init__(
        self,
        channels: int,
        stride: int,
        bottleneck: bool,
        project: bool,
        norm: str | None,
        name: str,
        inner: int | None = None,
        groups: int = 1,
        deformable: int | None = None,
        standardized: bool = False,
        switchable: bool = False,
        feedback: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        """
        Args:
            channels: int, output channels of the convolutions; a bottleneck's last has four times as many.
            stride: int, stride of the block.
            bottleneck: If True, the block is a bottleneck.
            project: If True, the shortcut is a 1x1 convolution.
            norm: str, a kind of `norms.make_norm`, or None.
            inner: int, channels inside a bottleneck; None for `channels`.
            groups, deformable, switchable: Options of a bottleneck's 3x3 convolution, as in `layers.Convolution`.
            standardized: If True, all convolutions of a bottleneck but `feedback` are standardized.
            feedback: If True, `call` adds a 1x1 convolution of another map, which is zero at first.
            stride_in_1x1: If True, a bottleneck's first convolution has the stride; if False, its 3x3 convolution.
        """
        super().__init__(name=name)
        inner = inner or channels
        # Stored statistics do not normalize an untrained network, whose features would double in every block. So the
        # last scale starts at zero and the block as the identity (arXiv:1706.02677, section 5.1).
        last: dict[str, Any] = {"norm": norm, "norm_scale": "zeros" if norm == "frozen_batch" else "ones"}
        kind: dict[str, Any] = {"standardized": standardized}
        if bottleneck:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            middle: dict[str, Any] = {"groups": groups, "deformable": deformable, "switchable": switchable, **kind}
            self.body = [
                Convolution(inner, 1, first, norm=norm, relu=True, name="conv1", **kind),
                Convolution(inner, 3, second, norm=norm, relu=True, name="conv2", **middle),
                Convolution(4 * channels, 1, name="conv3", **last, **kind),
            ]
        else:
            self.body = [
                Convolution(channels, 3, stride, norm=norm, relu=True, name="conv1"),
                Convolution(channels, 3, name="conv2", **last),
            ]
        width = 4 * channels if bottleneck else channels
        self.shortcut = Convolution(width, 1, stride, norm=norm, name="shortcut", **kind) if project else None
        self.feedback = Convolution(width, 1, initializer="zeros", name="feedback") if feedback else None

    def call(self, x: tf.Tensor, feedback: tf.Tensor | None = None, training: bool | None = None) -> tf.Tensor:
        """Returns [B, H / stride, W / stride, outputs] of x [B, H, W, C] and, if any, feedback [B, H / stride, ...]."""
        shortcut = x if self.shortcut is None else self.shortcut(x, training=training)
        for layer in self.body:
            x = layer(x, training=training)
        x += shortcut
        return tf.nn.relu(x if self.feedback is None else x + self.feedback(feedback))


class ResidualNetwork(tf.keras.layers.Layer):
    """A stem, a max pool and four stages of residual blocks, which subclasses set as `stem` and `stages`.

    They also set `width`, the channels of C2.
    """

    levels_up = 1  # the first block of a stage halves the resolution (see `composite`)
    with_images = feedback = False

    def check_groups(self, width: int, group_width: int) -> None:
        """Raises a UserError if a group of the first stage, of `width` channels, has none."""
        if width * group_width < 64:
            raise UserError(
                f"{type(self).__name__}.group_width = {group_width} leaves a group no channel; "
                f"give {-(-64 // width)} or more"
            )

    @property
    def trains_max_pooling(self) -> bool:
        """True if the gradient passes the max pooling."""
        return bool(self.stem.trainable_variables)

    def freeze(self, frozen_stages: int) -> None:
        """Makes the stem and the first `frozen_stages` stages untrainable; 0 freezes the stem alone, -1 nothing."""
        if frozen_stages >= 0:
            self.stem.trainable = False
        for blocks in self.stages[: max(frozen_stages, 0)]:
            for block in blocks:
                block.trainable = False

    def share(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns C2 [B, H / 4, W / 4, width] of normalized images; see `composite`."""
        x = self.stem(images, training=training)  # [B, H / 2, W / 2, C]
        # The stem ends in a ReLU, so that padding with zeros equals padding with minus infinity.
        x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID")  # [B, H / 4, W / 4, C]
        return self.run_stage(2, x, training)

    def run_stage(
        self, level: int, x: tf.Tensor, training: bool | None, feedback: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns C<level> of x, the input of its stage; arguments as in `call`."""
        first, *others = self.stages[level - 2]
        x = first(x, training=training) if feedback is None else first(x, feedback[level], training=training)
        for block in others:
            x = block(x, training=training)
        return x

    def call(
        self,
        images: tf.Tensor,
        feedback: FeatureMaps | None = None,
        training: bool | None = None,
        shared: tf.Tensor | None = None,
        added: FeatureMaps | None = None,
    ) -> FeatureMaps:
        """Returns {2: C2, 3: C3, 4: C4, 5: C5} at strides 4, 8, 16, 32, and with `with_images` {0: images} too.

        Args:
            images: [B, H, W, 3], normalized.
            feedback: {level: features that the first block of that level's stage receives} for C3, C4 and C5; or None.
            shared: Output of `share`, in a composite; None to compute it.
            added: {level: features in the shape of the input of that level's stage} to add to the inputs of C3, C4 and
                C5; or None.
        """
        if self.feedback and feedback is None:
            raise UserError(
                "ResNet.feedback = True needs the feedback of RecursiveFPN: set it for its backbone alone, as in "
                "second/ResNet.feedback"
            )
        features = {2: self.share(images, training) if shared is None else shared}
        for level in (3, 4, 5):
            x = features[level - 1] if added is None else features[level - 1] + added[level]
            features[level] = self.run_stage(level, x, training, feedback)
        return {0: images, **features} if self.with_images else features


@gin.register
@check_ranges(
    depth=choice(*BLOCKS),
    width=whole(1, 1024),
    norm=NORM,
    frozen_stages=whole(-1, 4),
    groups=whole(1, 1024),
    group_width=whole(1, 1024),
    deformable=choice(None, 1, 2),
    deformable_stages=Each(whole(2, 5), minimum=0),
    standardized=FLAG,
    switchable_stages=Each(whole(2, 5), minimum=0),
    feedback=FLAG,
    stride_in_1x1=FLAG,
    with_images=FLAG,
)
class ResNet(ResidualNetwork):
    """A ResNet or ResNeXt without its classifier."""

    def __init__(
        self,
        depth: int = 50,
        width: int = 64,
        norm: str | None = "frozen_batch",
        frozen_stages: int = 1,
        groups: int = 1,
        group_width: int = 64,
        deformable: int | None = None,
        deformable_stages: Sequence[int] = (),
        standardized: bool = False,
        switchable_stages: Sequence[int] = (),
        feedback: bool = False,
        with_images: bool = False,
        stride_in_1x1: bool = False,
        name: str = "backbone",
    ) -> None:
        """
        Args:
            depth: int, 10 (half of 18), 18, 34, 50, 101 or 152.
            width: int, channels of the stem; 64 is the published network.
            norm: str, a kind of `norms.make_norm`, or None.
            frozen_stages: int, number of leading stages that are not trained, together with the stem; 0 freezes the
                stem alone, -1 nothing.
            groups, group_width: int, cardinality and width of a ResNeXt: 32 and 4 make 32x4d, 1 and 64 a ResNet. A
                bottleneck's 3x3 convolution has `groups` groups of `group_width` channels in the first stage and of
                twice as many in each next one, if the stem has 64 channels; otherwise in proportion.
            deformable: int, version 1 or 2 of deformable convolution in bottlenecks, or None.
            deformable_stages: ints, levels 2 ... 5 of the deformable stages; (3, 4, 5) is c3-c5.
            standardized: If True, all convolutions are standardized (`switchable.StandardizedConv2D`).
            switchable_stages: ints, levels of the stages whose 3x3 convolutions are switchable
                (`switchable.SwitchableConv2D`).
            feedback: If True, the first blocks of the stages 3, 4 and 5 receive the `feedback` given to `call`.
            with_images: If True, the result of `call` has the images as level 0, which `RecursiveFPN` needs.
            stride_in_1x1: If True, the first convolution of a bottleneck has its stride (MSRA); if False, the 3x3
                convolution (torchvision, mmdetection).
        """
        super().__init__(name=name)
        self.with_images, self.feedback = with_images, feedback
        bottleneck = depth >= BOTTLENECK_FROM
        grouped = groups > 1 or group_width != 64
        detectors = standardized or switchable_stages or feedback
        if not bottleneck and (grouped or deformable or detectors or stride_in_1x1):
            options = "groups, group_width, deformable, standardized, switchable_stages, feedback or stride_in_1x1"
            raise UserError(f"ResNet.depth = {depth} has no bottlenecks for {options}; give 50, 101 or 152")
        if (groups > 1 or deformable) and (standardized or switchable_stages):
            raise UserError(
                "ResNet.standardized and switchable_stages exclude groups and deformable: give only one kind"
            )
        if bool(deformable) != bool(deformable_stages) or not {2, 3, 4, 5}.issuperset(deformable_stages):
            raise UserError(
                f"ResNet.deformable = {deformable!r}, deformable_stages = {deformable_stages}: "
                "give a version, 1 or 2, and stages among 2, 3, 4 and 5, or neither"
            )
        self.check_groups(width, group_width)
        self.width = 4 * width if bottleneck else width
        self.stem = Convolution(width, 7, 2, norm=norm, relu=True, standardized=standardized, name="stem")
        self.stages = []
        for stage, blocks in enumerate(BLOCKS[depth]):  # stage 0 makes C2
            channels = width * 2**stage
            self.stages.append(
                [
                    Block(
                        channels,
                        stride=2 if stage > 0 and block == 0 else 1,
                        bottleneck=bottleneck,
                        project=block == 0 and (bottleneck or stage > 0),
                        norm=norm,
                        inner=channels * group_width // 64 * groups,
                        groups=groups,
                        deformable=deformable if stage + 2 in deformable_stages else None,
                        standardized=standardized,
                        switchable=stage + 2 in switchable_stages,
                        feedback=feedback and stage > 0 and block == 0,
                        stride_in_1x1=stride_in_1x1,
                        name=f"stage{stage + 1}_block{block + 1}",
                    )
                    for block in range(blocks)
                ]
            )
        self.freeze(frozen_stages)
