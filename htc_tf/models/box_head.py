"""A stage's box head: from pooled RoI features to class logits and box deltas."""

import gin
import tensorflow as tf

from htc_tf.models.layers import make_norm
from htc_tf.ranges import CHANNELS, FLAG, check_ranges, whole


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    class_agnostic=FLAG,
)
class BoxHead(tf.keras.layers.Layer):
    """features [R, 7, 7, C] -> class logits [R, K + 1] (background last), deltas [R, 4] or [R, K, 4], float32."""

    def __init__(self, num_classes, channels=1024, norm=None, class_agnostic=True, name="box_head"):
        """
        Args:
            num_classes: K.
            channels: of the two hidden layers.
            norm: "layer" has layer norm follow each of them, which helps to learn from scratch; None for none.
            class_agnostic: whether all classes share one box (HTC, Cascade R-CNN) or each has its own (Faster and Mask
                R-CNN).
        """
        super().__init__(name=name)
        self.class_agnostic = class_agnostic
        outputs = 4 if class_agnostic else 4 * num_classes
        normal = tf.keras.initializers.RandomNormal
        self.hidden = [tf.keras.layers.Dense(channels, name=f"hidden{i}") for i in (1, 2)]
        self.norms = [make_norm(norm) for _ in self.hidden]
        self.classifier = tf.keras.layers.Dense(num_classes + 1, kernel_initializer=normal(stddev=0.01), name="logits")
        self.regressor = tf.keras.layers.Dense(outputs, kernel_initializer=normal(stddev=0.001), name="deltas")

    def call(self, features):
        x = tf.reshape(features, [-1, features.shape[1] * features.shape[2] * features.shape[3]])
        for dense, norm in zip(self.hidden, self.norms, strict=True):
            x = dense(x)
            x = tf.nn.relu(x if norm is None else norm(x))
        deltas = tf.cast(self.regressor(x), tf.float32)
        if not self.class_agnostic:
            deltas = tf.reshape(deltas, [-1, deltas.shape[-1] // 4, 4])
        return tf.cast(self.classifier(x), tf.float32), deltas
