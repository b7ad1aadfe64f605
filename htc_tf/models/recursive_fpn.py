"""The recursive feature pyramid (arXiv:2006.02334, section 3): a neck that looks at the image a second time."""

import gin
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import FPN
from htc_tf.models.layers import Convolution
from htc_tf.models.switchable import global_mean
from htc_tf.ops.convolution import dilated_conv2d
from htc_tf.ranges import CHANNELS, check_ranges
from htc_tf.structures import FeatureMaps

DILATIONS = (3, 6)
FEEDBACK_LEVELS = (3, 4, 5)


class DilatedConvolution(tf.keras.layers.Conv2D):
    """A 3x3 convolution with dilation, then a ReLU."""

    def __init__(self, channels: int, dilation: int, name: str) -> None:
        super().__init__(channels, 3, kernel_initializer="he_normal", name=name)
        self.dilation = dilation

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = dilated_conv2d(x, tf.convert_to_tensor(self.kernel), self.dilation)
        return tf.nn.relu(tf.nn.bias_add(x, self.bias))


class SpatialPyramidPooling(tf.keras.layers.Layer):
    """Atrous spatial pyramid pooling (section 3.2): features at four ranges, from one cell to the whole map."""

    def __init__(self, channels: int, name: str) -> None:
        """channels: int, output channels of each branch."""
        super().__init__(name=name)
        self.branches: list[tf.keras.layers.Layer] = [
            Convolution(channels, 1, relu=True, name="branch1"),
            *(DilatedConvolution(channels, d, name=f"branch{i}") for i, d in enumerate(DILATIONS, start=2)),
            Convolution(channels, 1, relu=True, name="branch4"),
        ]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [B, H, W, 4 channels] of x [B, H, W, C]."""
        *local, pooled = self.branches
        outputs = [branch(x) for branch in local]
        return tf.concat([*outputs, tf.broadcast_to(pooled(global_mean(x)), tf.shape(outputs[0]))], axis=-1)


@gin.register
@check_ranges(
    feedback_channels=CHANNELS,
)
class RecursiveFPN(tf.keras.layers.Layer):
    """A feature pyramid whose levels return as feedback to a second backbone, whose pyramid is fused with the first.

    The same FPN makes both pyramids. The second backbone has weights of its own, as in mmdetection.
    """

    def __init__(
        self, fpn: FPN, backbone: tf.keras.layers.Layer, feedback_channels: int = 64, name: str = "neck"
    ) -> None:
        """
        Args:
            fpn: FPN.
            backbone: ResNet with `feedback`.
            feedback_channels: int, channels of each of the four branches of the feedback.
        """
        super().__init__(name=name)
        if not getattr(backbone, "feedback", False):
            raise UserError(
                f"RecursiveFPN.backbone: {type(backbone).__name__} receives no feedback; bind @second/ResNet() with "
                "second/ResNet.feedback = True"
            )
        self.fpn, self.backbone, self.channels = fpn, backbone, fpn.channels
        self.pooling = SpatialPyramidPooling(feedback_channels, name="pooling")
        self.fusion = Convolution(1, 1, initializer="zeros", name="fusion")

    def call(self, features: FeatureMaps, training: bool | None = None) -> FeatureMaps:
        """Returns {2: P2, ..., 6: P6} of {0: images, 2: C2, ..., 5: C5}; see `FPN` and `ResNet.with_images`."""
        if 0 not in features:
            raise UserError("RecursiveFPN gets no images: bind HTC.backbone = @ResNet() with ResNet.with_images = True")
        first = self.fpn(features, training=training)
        feedback = {level: self.pooling(first[level]) for level in FEEDBACK_LEVELS}
        second = self.fpn(self.backbone(features[0], feedback, training=training), training=training)
        return {level: self.fuse(first[level], second[level]) for level in second}

    def fuse(self, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        """Returns the weighted mean of two maps [B, H, W, C]; the second map predicts the weights of every cell."""
        weight = tf.sigmoid(self.fusion(second))  # [B, H, W, 1]
        return weight * second + (1 - weight) * first
