"""Image sizes: what an image is resized to, and the few shapes that images are padded to.

Before it: a decoded image. After it: the network's input. Training, prediction and the exported model all come
through here, so that they see the same pixels: plain TensorFlow, no Python on the way.
"""

import tensorflow as tf

# The long side by the short side of most photographs.
ASPECTS = (4 / 3, 3 / 2)


def fitted_size(height, width, min_side, max_side, canvas=None):
    """The size that brings the short side to `min_side`, or the long one to `max_side` where that is less.

    As mmcv computes it (`rescale_size`): in double precision, rounded half up.

    Args:
      height, width: [] int, pixels.
      min_side, max_side: numbers or [] tensors, pixels, of the result.
      canvas: (height, width) that the result must fit into, if it must.

    Returns:
      [2] int32, height and width, each at least 1.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    limits = tf.cast(tf.stack([min_side, max_side]), tf.float64)
    scale = tf.minimum(limits[0] / tf.reduce_min(sides), limits[1] / tf.reduce_max(sides))
    if canvas is not None:
        scale = tf.minimum(scale, tf.reduce_min(tf.cast(tf.stack(canvas), tf.float64) / sides))
    return tf.maximum(tf.cast(sides * scale + 0.5, tf.int32), 1)


def resize(image, size):
    """An image [h, w, C] uint8 at another size [2] int32: bilinear between pixel centres, rounded to uint8.

    Without anti-aliasing, as OpenCV's INTER_LINEAR, which the published weights were trained on.
    """
    # Half a grey level added before, where the image is small, makes the final cast round: one pass less over the
    # large float image, a third of the whole cost.
    return tf.cast(tf.image.resize(tf.cast(image, tf.float32) + 0.5, size), tf.uint8)


def resize_to_fit(image, min_side, max_side):
    """An image [h, w, 3] uint8 at its `fitted_size`.

    Returns:
      The image, [h2, w2, 3] uint8, and its size [h2, w2], [2] float32.
    """
    shape = tf.shape(image)
    size = fitted_size(shape[0], shape[1], min_side, max_side)
    return resize(image, size), tf.cast(size, tf.float32)


def pad_to(image, height, width):
    """An image [h, w, C] with zeros added at the bottom and the right: [height, width, C].

    height and width are ints or [] tensors; ints become the static shape.
    """
    shape = tf.shape(image)
    channels = image.shape[-1]
    # On rows of bytes tf.pad is more than twice as fast as on pixels.
    rows = tf.reshape(image, [shape[0], shape[1] * channels])
    rows = tf.pad(rows, [[0, height - shape[0]], [0, (width - shape[1]) * channels]])
    return tf.reshape(rows, [height, width, channels])


def padded_shapes(min_side, max_side, divisor=32, aspects=ASPECTS):
    """The shapes [(height, width), ...] that hold every image which `fitted_size` fits to these sides.

    Few, since each is compiled for itself: landscape and portrait for each aspect, and for what is longer than all of
    them. Of COCO's images, 800 to 1333 pixels, the two shapes that hold all are 20 % padding, these six 4 %.

    Args:
      min_side, max_side: pixels.
      divisor: sides are multiples of it.
      aspects: numbers from 1 on, long side by short side. Without any there are two shapes; sides that round to one
        number are one square.
    """
    short, longest = (_round_up(side, divisor) for side in (min_side, max_side))
    sides = sorted({longest} | {min(_round_up(round(min_side * aspect), divisor), longest) for aspect in aspects})
    return [(short, side) for side in sides] + [(side, short) for side in sides if side != short]


def choose_shape(size, shapes):
    """The index, [] int64, of the first of the padded shapes that holds an image of that size [2] int32.

    The first is the smallest: `padded_shapes` lists them in that order.
    """
    return tf.argmax(tf.reduce_all(tf.constant(shapes, tf.int32) >= size, axis=1))


def _round_up(side, divisor):
    return -(-side // divisor) * divisor
