"""The box head: class logits and box deltas of pooled RoIs."""

import gin
import tensorflow as tf

from htc_tf.models.layers import NORM, make_norm
from htc_tf.ranges import CHANNELS, FLAG, check_ranges, whole


@gin.register
@check_ranges(
    num_classes=whole(1),
    channels=CHANNELS,
    norm=NORM,
    class_agnostic=FLAG,
)
class BoxHead(tf.keras.layers.Layer):
    """A stage's box head: two hidden layers, then a classifier and a box regressor."""

    def __init__(self, num_classes, channels=1024, norm=None, class_agnostic=True, name="box_head"):
        """
        Args:
            num_classes: int, K.
            channels: int, width of the two hidden layers.
            norm: str, "layer" for layer norm after each hidden layer, which helps training from scratch, or None.
            class_agnostic: If True, all classes share one box (HTC, Cascade R-CNN); if False, each class has its own
                (Faster and Mask R-CNN).
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
        """Returns class logits and box deltas.

        Args:
            features: [R, 7, 7, C] float32, from `RoIPooler.pool_boxes`.
        Returns:
            (logits [R, K + 1], background last; deltas [R, 4] or, by class, [R, K, 4]), both float32.
        """
        x = tf.reshape(features, [-1, features.shape[1] * features.shape[2] * features.shape[3]])  # [R, 7 * 7 * C]
        for dense, norm in zip(self.hidden, self.norms, strict=True):
            x = dense(x)
            x = tf.nn.relu(x if norm is None else norm(x))
        deltas = tf.cast(self.regressor(x), tf.float32)  # [R, 4] or [R, 4 * K]
        if not self.class_agnostic:
            deltas = tf.reshape(deltas, [-1, deltas.shape[-1] // 4, 4])
        return tf.cast(self.classifier(x), tf.float32), deltas
