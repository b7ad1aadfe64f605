"""Decodes a JPEG or PNG in a TensorFlow graph, to the pixels that Pillow and OpenCV make of it.

Used by `data.sample` on records and by `serving.decode` on requests; `data.image_io` is the same for Python.
"""

import tensorflow as tf

JPEG = b"\xff\xd8\xff"


def decode_rgb(encoded):
    """
    Args:
        encoded: [] string, the bytes of a JPEG or PNG of any colors and 8 or 16 bits.
    Returns:
        [h, w, 3] uint8 RGB, as stored: an EXIF orientation is not applied. Of 16 bits the high byte; alpha is dropped.
    Raises:
        tf.errors.InvalidArgumentError: when it runs, on damaged bytes.
    """
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG)) == JPEG
    image = tf.cond(
        is_jpeg,
        # TensorFlow's default is a faster, inexact transform: up to 25 gray levels off on COCO's images.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )
    return tf.ensure_shape(image, [None, None, 3])
