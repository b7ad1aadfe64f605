"""The mask head, and the mask information flow between the mask heads of successive stages (paper, section 3.1)."""

from collections.abc import Sequence

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.models.norms import ROW_NORM
from htc_tf.models.residual import make_convs
from htc_tf.ranges import CHANNELS, FLAG, check_ranges, whole


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    num_convs=whole(0, 100),
    norm=ROW_NORM,
    residual=FLAG,
)
class MaskHead(tf.keras.layers.Layer):
    """A stage's mask head: `extract_features` convolves pooled RoIs, `call` upsamples the result to mask logits."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        norm: str | None = None,
        residual: bool = False,
        name: str = "mask_head",
    ) -> None:
        """
        Args:
            num_classes: int, K.
            channels: int, output channels of each convolution.
            num_convs: int, number of 3x3 convolutions.
            norm: str, a kind of `norms.make_norm`, or None. No batch norm on statistics of the batch: `map_valid_rows`
                also gives the head rows that are not valid.
            residual: If True, each two convolutions are a residual block (SCNet).
        """
        super().__init__(name=name)
        self.channels = channels
        self.convs = make_convs("MaskHead", channels, num_convs, norm, residual)
        # Its variables exist only where features arrive: in every stage but the first, if information flows.
        self.flow_conv = Convolution(channels, 1, relu=True, name="flow_conv")
        self.upsample = tf.keras.layers.Conv2DTranspose(
            channels, 2, 2, activation="relu", kernel_initializer="he_normal", name="upsample"
        )
        self.predict = Convolution(num_classes, 1, name="logits")

    def extract_features(
        self, pooled: tf.Tensor, previous_features: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Returns this stage's mask features, [R, 14, 14, C].

        Args:
            pooled: [R, 14, 14, C], from `RoIPooler.pool_masks`.
            previous_features: [R, 14, 14, C], the previous mask head's features of the same RoIs, or None.
            training: bool.
        """
        x = pooled
        if previous_features is not None:
            x = pooled + tf.cast(self.flow_conv(previous_features), pooled.dtype)
        for conv in self.convs:
            x = conv(x, training=training)
        return x

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns mask logits [R, 28, 28, K] float32 of features [R, 14, 14, C]."""
        return tf.cast(self.predict(self.upsample(features)), tf.float32)


def mask_information_flow(
    heads: Sequence[MaskHead], pooled: tf.Tensor, enabled: bool, training: bool | None = None
) -> list[tf.Tensor]:
    """Runs the mask heads of successive stages on the same RoIs; each passes its features to the next.

    Args:
        heads: list of MaskHead, from the first stage on.
        pooled: [R, 14, 14, C].
        enabled: If False, nothing is passed on and each head sees the pooled features alone.
        training: bool.
    Returns:
        The mask features of each head, a list of [R, 14, 14, C].
    """
    features = []
    for head in heads:
        previous = features[-1] if features and enabled else None
        features.append(head.extract_features(pooled, previous, training=training))
    return features
