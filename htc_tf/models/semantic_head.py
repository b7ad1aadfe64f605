"""The semantic head (paper, section 3.2): semantic segmentation, and an embedding added to every RoI's features."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM
from htc_tf.models.residual import make_convs
from htc_tf.ranges import CHANNELS, FLAG, check_ranges, whole
from htc_tf.structures import FeatureMaps, SemanticOutput

SEMANTIC_LEVEL = 3


def resize_corners(x: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns [B, height, width, C] float32, resized bilinearly with aligned corners, as both references do."""
    return tf.raw_ops.ResizeBilinear(images=x, size=[height, width], align_corners=True, half_pixel_centers=False)


@gin.register
@check_ranges(
    num_labels=whole(1, 255),
    channels=CHANNELS,
    num_convs=whole(0, 100),
    norm=NORM,
    residual=FLAG,
)
class SemanticHead(tf.keras.layers.Layer):
    """Resizes all levels of the pyramid to P3, sums them, convolves the sum and predicts a label for every cell."""

    def __init__(
        self,
        num_labels: int,
        channels: int = 256,
        num_convs: int = 4,
        norm: str | None = None,
        residual: bool = False,
        name: str = "semantic_head",
    ) -> None:
        """
        Args:
            num_labels: int, number of thing and stuff labels together; COCO-stuff has 183.
            channels: int, output channels of each convolution.
            num_convs: int, number of 3x3 convolutions after the sum.
            norm: str, a kind of `norms.make_norm`, or None.
            residual: If True, each two convolutions after the sum are a residual block (SCNet).
        """
        super().__init__(name=name)
        self.num_labels, self.channels = num_labels, channels
        self.laterals = [Convolution(channels, 1, norm=norm, relu=True, name=f"lateral{i}") for i in range(2, 7)]
        self.convs = make_convs("SemanticHead", channels, num_convs, norm, residual)
        self.embed = Convolution(channels, 1, norm=norm, relu=True, name="embedding")
        self.predict = Convolution(num_labels, 1, name="logits")

    def call(self, pyramid: FeatureMaps, training: bool | None = None) -> SemanticOutput:
        """Returns the SemanticOutput of a pyramid {2: P2, ..., 6: P6}."""
        height, width = pyramid[SEMANTIC_LEVEL].shape[1:3]
        x = 0.0
        for lateral, level in zip(self.laterals, sorted(pyramid), strict=True):
            resized = pyramid[level]
            if level != SEMANTIC_LEVEL:
                resized = tf.cast(resize_corners(resized, height, width), resized.dtype)
            x += lateral(resized, training=training)  # [B, H / 8, W / 8, C]
        for conv in self.convs:
            x = conv(x, training=training)
        return SemanticOutput(tf.cast(self.predict(x), tf.float32), self.embed(x, training=training))
