"""The parts of SCNet (Vu et al., arXiv:2012.10150) that HTC lacks: the global context head and the feature relay."""

import gin
import tensorflow as tf

from htc_tf.models.norms import NORM
from htc_tf.models.residual import make_convs
from htc_tf.models.semantic_head import resize_corners
from htc_tf.ranges import CHANNELS, check_ranges, whole
from htc_tf.structures import ContextOutput, FeatureMaps


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    num_convs=whole(0, 100),
    norm=NORM,
)
class GlobalContextHead(tf.keras.layers.Layer):
    """Predicts the classes in an image from the mean over its coarsest map, which is added to the features of RoIs."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        norm: str | None = None,
        name: str = "context_head",
    ) -> None:
        """
        Args:
            num_classes: int, K.
            channels: int, channels of the neck's features and of each convolution.
            num_convs: int, number of 3x3 convolutions, in residual blocks of two.
            norm: str, a kind of `norms.make_norm`, or None.
        """
        super().__init__(name=name)
        self.channels = channels
        self.convs = make_convs("GlobalContextHead", channels, num_convs, norm, residual=True)
        initializer = tf.keras.initializers.RandomNormal(stddev=0.01)
        self.classifier = tf.keras.layers.Dense(num_classes, kernel_initializer=initializer, name="logits")

    def call(self, pyramid: FeatureMaps, training: bool | None = None) -> ContextOutput:
        """Returns the ContextOutput of a pyramid {2: P2, ..., 6: P6}."""
        x = pyramid[max(pyramid)]
        for conv in self.convs:
            x = conv(x, training=training)
        # Over all cells, those of the padding included, as in mmdetection.
        embedding = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])  # [B, C]
        return ContextOutput(tf.cast(self.classifier(embedding), tf.float32), embedding)


@gin.register
@check_ranges(
    channels=CHANNELS,
    size=whole(1, 256),
)
class FeatureRelay(tf.keras.layers.Layer):
    """Turns the last hidden layer of a box head into features of the mask head, a vector into a map."""

    def __init__(self, channels: int = 256, size: int = 7, name: str = "relay") -> None:
        """
        Args:
            channels: int, channels of the neck's features.
            size: int, cells along each side of the map before it is resized.
        """
        super().__init__(name=name)
        self.channels, self.size = channels, size
        initializer = tf.keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        self.expand = tf.keras.layers.Dense(size * size * channels, kernel_initializer=initializer, name="expand")

    def call(self, hidden: tf.Tensor, side: int) -> tf.Tensor:
        """Returns [R, side, side, C] float32 of hidden features [R, F]."""
        cells = tf.reshape(self.expand(hidden), [-1, self.size, self.size, self.channels])
        return resize_corners(cells, side, side)
