"""A request's pictures, of whatever sizes, resized and padded as training and evaluation see them.

Before: `serving.module`, which knows how a row is read. After: `serving.batching`. All of it on the CPU, as in
training: another device would round pixels another way.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.data.resize import choose_shape, pad_to, resize_to_fit

AT_ONCE = 8  # pictures that are decoded side by side
NO_SHAPE = -1


class Prepared(NamedTuple):
    """B pictures; of those that were refused all is 0 but status and shape."""

    pictures: tf.Tensor  # [B] string: [H, W, 3] uint8, padded to one of the model's shapes, as tf.io.parse_tensor reads
    sizes: tf.Tensor  # [B, 2] float32, height and width inside the padding
    originals: tf.Tensor  # [B, 2] int32, height and width before resizing
    shapes: tf.Tensor  # [B] int32, which shape; NO_SHAPE where there is no picture
    status: tf.Tensor  # [B] string, empty, or why there is none


ROW = Prepared(
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([2], tf.float32),
    tf.TensorSpec([2], tf.int32),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.string),
)


def prepare(read, count, bounds):
    """
    Args:
        read: a row's number, [] int32, -> ([h, w, 3] uint8, [] string): the picture, or nothing and the reason.
        count: B, [] int32.
        bounds: a `data.input.Input`: its sides and shapes.
    """
    shapes = tf.constant(bounds.shapes, tf.int32)

    def fit(image):
        image, size = resize_to_fit(image, bounds.min_side, bounds.max_side)
        shape = tf.cast(choose_shape(tf.cast(size, tf.int32), bounds.shapes), tf.int32)
        padded = pad_to(image, *tf.unstack(shapes[shape]))
        # Pictures of several shapes make no tensor, but strings do.
        return tf.io.serialize_tensor(padded), size, shape

    def refuse():
        return tf.constant(""), tf.zeros([2]), tf.constant(NO_SHAPE)

    def prepare_row(row):
        image, status = read(row)
        picture, size, shape = tf.cond(status == "", lambda: fit(image), refuse)
        return Prepared(picture, size, tf.shape(image)[:2], shape, status)

    return tf.map_fn(prepare_row, tf.range(count), fn_output_signature=ROW, parallel_iterations=AT_ONCE)
