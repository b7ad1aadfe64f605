"""A stage's mask head, and what it receives from the stage before: the mask information flow (paper, section 3.1)."""

import gin
import tensorflow as tf

from htc_tf.models.layers import Convolution
from htc_tf.ranges import CHANNELS, check_ranges, whole


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    convolutions=whole(0, 100),
)
class MaskHead(tf.keras.layers.Layer):
    """features [R, 14, 14, C] -> trunk [R, 14, 14, C] -> logits [R, 28, 28, K]."""

    def __init__(self, num_classes, channels=256, convolutions=4, norm=None, name="mask_head"):
        super().__init__(name=name)
        self.convolutions = [
            Convolution(channels, 3, norm=norm, relu=True, name=f"conv{i + 1}") for i in range(convolutions)
        ]
        # Has variables only where something is carried in: in every stage but the first, if information flows.
        self.receive = Convolution(channels, 1, relu=True, name="receive")
        self.upsample = tf.keras.layers.Conv2DTranspose(
            channels, 2, 2, activation="relu", kernel_initializer="he_normal", name="upsample"
        )
        self.predict = Convolution(num_classes, 1, name="logits")

    def trunk(self, features, carried=None, training=None):
        """The features of this stage's masks. `carried`: the trunk of the stage before on the same RoIs, or None."""
        x = features if carried is None else features + tf.cast(self.receive(carried), features.dtype)
        for layer in self.convolutions:
            x = layer(x, training=training)
        return x

    def call(self, trunk):
        return tf.cast(self.predict(self.upsample(trunk)), tf.float32)


def run_trunks(heads, features, information_flow, training=None):
    """The trunks of a row of mask heads on the same RoIs: each hands its own to the next, if information flows.

    Args:
        heads: the mask heads of the first stages, in order.
        features: [R, 14, 14, C].
        information_flow: whether trunks are handed on; if not, each head stands alone.
    Returns:
        one trunk [R, 14, 14, C] a head.
    """
    trunks = []
    for head in heads:
        carried = trunks[-1] if trunks and information_flow else None
        trunks.append(head.trunk(features, carried, training=training))
    return trunks
