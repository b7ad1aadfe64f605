"""The semantic branch (paper, section 3.2): stuff and things for every pixel, and an embedding that all heads read."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.ranges import CHANNELS, check_ranges, whole
from htc_tf.structures import SemanticOutput

SEMANTIC_LEVEL = 3


def resize_corners(x, height, width):
    """Bilinear, the corner pixels' centres aligned."""
    return tf.raw_ops.ResizeBilinear(images=x, size=[height, width], align_corners=True, half_pixel_centers=False)


@gin.register
@check_ranges(
    num_labels=whole(1, 255),
    channels=CHANNELS,
    convolutions=whole(0, 100),
)
class SemanticHead(tf.keras.layers.Layer):
    """pyramid {2: P2 ... 6: P6} -> SemanticOutput: all levels at P3's size, summed, then convolutions."""

    def __init__(self, num_labels, channels=256, convolutions=4, norm=None, name="semantic_head"):
        """
        Args:
            num_labels: thing and stuff labels together; COCO-stuff has 183.
            channels: of all its convolutions.
            convolutions: how many 3x3 convolutions follow the sum.
            norm: a kind that `layers.make_norm` knows.
        """
        super().__init__(name=name)
        self.num_labels = num_labels
        self.laterals = [Convolution(channels, 1, norm=norm, relu=True, name=f"lateral{i}") for i in range(2, 7)]
        self.convolutions = [
            Convolution(channels, 3, norm=norm, relu=True, name=f"conv{i + 1}") for i in range(convolutions)
        ]
        self.embed = Convolution(channels, 1, norm=norm, relu=True, name="embedding")
        self.predict = Convolution(num_labels, 1, name="logits")

    def call(self, pyramid, training=None):
        height, width = pyramid[SEMANTIC_LEVEL].shape[1:3]
        x = 0.0
        for lateral, level in zip(self.laterals, sorted(pyramid), strict=True):
            resized = pyramid[level]
            if level != SEMANTIC_LEVEL:
                resized = tf.cast(resize_corners(resized, height, width), resized.dtype)
            x += lateral(resized, training=training)
        for layer in self.convolutions:
            x = layer(x, training=training)
        return SemanticOutput(tf.cast(self.predict(x), tf.float32), self.embed(x, training=training))
