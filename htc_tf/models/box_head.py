"""The box head: class logits and box deltas of pooled RoIs."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.models.norms import NORM, make_norm
from htc_tf.ranges import CHANNELS, FLAG, FRACTION, check_ranges, whole


def scale_gradient(x: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns x, with a gradient that is multiplied by a factor."""
    if factor == 1:
        return x
    return tf.custom_gradient(lambda x: (tf.identity(x), lambda upstream: factor * upstream))(x)


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    norm=NORM,
    class_agnostic=FLAG,
    num_hidden=whole(0, 100),
    num_convs=whole(0, 100),
    conv_channels=CHANNELS,
    conv_norm=NORM,
    feature_gradient=FRACTION,
)
class BoxHead(tf.keras.layers.Layer):
    """A stage's box head: hidden layers, by default two, then a classifier and a box regressor.

    Four convolutions with batch norm and one hidden layer are the head of Swin's and ConvNeXt's detectors.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 1024,
        norm: str | None = None,
        class_agnostic: bool = True,
        num_hidden: int = 2,
        num_convs: int = 0,
        conv_channels: int = 256,
        conv_norm: str | None = None,
        feature_gradient: float = 1.0,
        name: str = "box_head",
    ) -> None:
        """
        Args:
            num_classes: int, K.
            channels: int, width of the hidden layers.
            norm: str, a kind of `norms.make_norm` after each hidden layer, or None. "layer" helps from scratch.
                Here and in `conv_norm`, the statistics of a batch norm include the RoIs of zero area that pad an image.
            class_agnostic: If True, all classes share one box (HTC, Cascade R-CNN); if False, each class has its own
                (Faster and Mask R-CNN).
            num_hidden: int, number of hidden layers.
            num_convs: int, number of 3x3 convolutions before the hidden layers.
            conv_channels: int, output channels of each convolution.
            conv_norm: str, a kind of `norms.make_norm` after each convolution, or None.
            feature_gradient: float, factor of the gradient that flows into the pooled features. A third in each of
                three stages keeps the backbone's gradient as large as that of one (detectron2).
        """
        super().__init__(name=name)
        self.feature_gradient = feature_gradient
        self.class_agnostic = class_agnostic
        outputs = 4 if class_agnostic else 4 * num_classes
        normal = tf.keras.initializers.RandomNormal
        self.convs = [
            Convolution(conv_channels, 3, norm=conv_norm, relu=True, name=f"conv{i + 1}") for i in range(num_convs)
        ]
        self.hidden = [tf.keras.layers.Dense(channels, name=f"hidden{i + 1}") for i in range(num_hidden)]
        self.norms = [make_norm(norm) for _ in self.hidden]
        self.classifier = tf.keras.layers.Dense(num_classes + 1, kernel_initializer=normal(stddev=0.01), name="logits")
        self.regressor = tf.keras.layers.Dense(outputs, kernel_initializer=normal(stddev=0.001), name="deltas")

    def extract_features(self, pooled: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the output of the last hidden layer, [R, F].

        Args:
            pooled: [R, 7, 7, C] float32, from `RoIPooler.pool_boxes`.
            training: bool, for batch norms among the convolutions.
        """
        x = scale_gradient(pooled, self.feature_gradient)
        for conv in self.convs:
            x = conv(x, training=training)
        x = tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])  # [R, 7 * 7 * C]
        for dense, norm in zip(self.hidden, self.norms, strict=True):
            x = dense(x)
            x = tf.nn.relu(x if norm is None else norm(x))
        return x

    def call(self, pooled: tf.Tensor, training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns class logits and box deltas of features as in `extract_features`.

        Returns:
            (logits [R, K + 1], background last; deltas [R, 4] or, by class, [R, K, 4]), both float32.
        """
        x = self.extract_features(pooled, training)
        deltas = tf.cast(self.regressor(x), tf.float32)  # [R, 4] or [R, 4 * K]
        if not self.class_agnostic:
            deltas = tf.reshape(deltas, [-1, deltas.shape[-1] // 4, 4])
        return tf.cast(self.classifier(x), tf.float32), deltas
