"""The semantic map of a picture as a PNG of its labels, in the graph: what `inference.semantic_map.enlarge` computes.

Before: the semantic branch's logits at every eighth pixel. After: `serving.module`.
"""

import tensorflow as tf

from htc_tf.inference.semantic_map import STRIDE, STRIP


def encode_labels(logits, size, original):
    """
    Args:
        logits: [h, w, S] float32, S static; cell [i, j] belongs to the centre of pixel [8 i, 8 j] of the resized
            picture.
        size: [2] float32, the resized picture's height and width.
        original: [2] int32, the picture's.
    Returns:
        [] string: a grey PNG of the picture's size, each pixel its label.
    """
    scale = size / tf.cast(original, tf.float32)
    height, width = tf.unstack(original)
    # Beyond the last cell there may be half a stride of pixels.
    logits = tf.pad(logits, [[0, 1], [0, 1], [0, 0]], "SYMMETRIC")[tf.newaxis]
    rows = tf.maximum(STRIP // (width * logits.shape[-1]), 1)

    def enlarge(top):
        strip = tf.raw_ops.ScaleAndTranslate(
            images=logits,
            size=tf.stack([tf.minimum(rows, height - top), width]),
            scale=STRIDE / scale,
            # Cell 0 reaches from -3.5 to 4.5 pixels of the resized picture.
            translation=(0.5 - STRIDE / 2) / scale - tf.cast(tf.stack([top, 0]), tf.float32),
            kernel_type="triangle",
            antialias=False,
        )
        return tf.cast(tf.argmax(strip[0], axis=-1, output_type=tf.int32), tf.uint8)

    labels = tf.zeros(tf.stack([0, width]), tf.uint8)
    _, labels = tf.while_loop(
        lambda top, _: top < height,
        lambda top, labels: (top + rows, tf.concat([labels, enlarge(top)], 0)),
        (0, labels),
        (tf.TensorShape([]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    return tf.io.encode_png(labels[..., tf.newaxis])
