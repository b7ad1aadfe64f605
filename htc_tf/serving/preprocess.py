"""Preprocessing of a request: images of any sizes, resized and padded as in training and evaluation.

Everything runs on the CPU, as in training: another device would round pixels differently.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.data.preprocessing import choose_shape, pad_to, resize_to_fit

PARALLEL_IMAGES = 8  # images that are decoded side by side
NO_SHAPE = -1


class Preprocessed(NamedTuple):
    """B images; for a refused one all fields but `status` and `shape_indices` are 0 or empty."""

    images: tf.Tensor  # [B] string: [H, W, 3] uint8, padded to one of the model's shapes, as tf.io.parse_tensor reads
    sizes: tf.Tensor  # [B, 2] float32, height and width inside the padding
    original_sizes: tf.Tensor  # [B, 2] int32, height and width before resizing
    shape_indices: tf.Tensor  # [B] int32, index of the padded shape; NO_SHAPE for a refused image
    status: tf.Tensor  # [B] string, empty, or the reason for the refusal


ROW_SPEC = Preprocessed(
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([2], tf.float32),
    tf.TensorSpec([2], tf.int32),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.string),
)


def preprocess(read, count, settings):
    """Reads, resizes and pads every image of a request.

    Args:
        read: maps a row number, [] int32, to (image [h, w, 3] uint8, status [] string); a status that is not empty
            is the reason why the image is refused.
        count: [] int32, the batch size B.
        settings: a `data.input.Input` with the sides and shapes of the images.

    Returns:
        Preprocessed.
    """
    shapes = tf.constant(settings.shapes, tf.int32)  # [S, 2]

    def resize_and_pad(image):
        image, size = resize_to_fit(image, settings.min_side, settings.max_side)
        index = tf.cast(choose_shape(tf.cast(size, tf.int32), settings.shapes), tf.int32)
        padded = pad_to(image, *tf.unstack(shapes[index]))  # [H, W, 3]
        # Images of several shapes do not form a tensor, but their serialized strings do.
        return tf.io.serialize_tensor(padded), size, index

    def refuse():
        return tf.constant(""), tf.zeros([2]), tf.constant(NO_SHAPE)

    def preprocess_row(row):
        image, status = read(row)
        serialized, size, index = tf.cond(status == "", lambda: resize_and_pad(image), refuse)
        return Preprocessed(serialized, size, tf.shape(image)[:2], index, status)

    return tf.map_fn(preprocess_row, tf.range(count), fn_output_signature=ROW_SPEC, parallel_iterations=PARALLEL_IMAGES)
