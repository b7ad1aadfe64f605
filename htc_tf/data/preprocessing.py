"""Image preprocessing in a TensorFlow graph: decoding, resizing and padding.

Training, prediction and the exported model share these functions, so that all of them see the same pixels.
`data.image_io` decodes the same formats in Python.
"""

from collections.abc import Sequence

import tensorflow as tf

JPEG = b"\xff\xd8\xff"  # first bytes of a JPEG file
ASPECTS = (4 / 3, 3 / 2)  # long side / short side of most photographs


def decode_rgb(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG to the pixels that Pillow and OpenCV decode.

    Args:
        encoded: [] string, a JPEG or PNG of any color type with 8 or 16 bits per channel.
    Returns:
        [h, w, 3] uint8 RGB, as stored: the EXIF orientation is not applied. 16-bit channels keep their high byte; alpha
        is dropped.
    Raises:
        tf.errors.InvalidArgumentError: The bytes are damaged; raised when the operation runs.
    """
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG)) == JPEG
    image = tf.cond(
        is_jpeg,
        # TensorFlow's default is a faster, inexact transform: up to 25 gray levels off on COCO's images.
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )
    return tf.ensure_shape(image, [None, None, 3])


def fitted_size(
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    min_side: float | tf.Tensor,
    max_side: float | tf.Tensor,
    canvas: Sequence[int | tf.Tensor] | None = None,
) -> tf.Tensor:
    """Returns the size of a resized image: short side `min_side`, or long side `max_side` if that is smaller.

    Computed as in mmcv's `rescale_size`: in double precision, rounded half up.

    Args:
        height, width: [] int, pixels of the image.
        min_side, max_side: Numbers or [] tensors, pixels of the resized image.
        canvas: (height, width) that the resized image must fit into, or None.
    Returns:
        [2] int32, height and width, each at least 1.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    limits = tf.cast(tf.stack([min_side, max_side]), tf.float64)
    scale = tf.minimum(limits[0] / tf.reduce_min(sides), limits[1] / tf.reduce_max(sides))
    if canvas is not None:
        scale = tf.minimum(scale, tf.reduce_min(tf.cast(tf.stack(canvas), tf.float64) / sides))
    return tf.maximum(tf.cast(sides * scale + 0.5, tf.int32), 1)  # a very long image keeps at least one pixel


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes an image [h, w, C] uint8 to [size[0], size[1], C] uint8, bilinearly between pixel centers.

    No anti-aliasing, as in OpenCV's INTER_LINEAR, which the published weights were trained with.
    """
    # Half a gray level is added before resizing, while the image is small, so that the final cast rounds: one pass less
    # over the large float image, a third of the whole cost.
    return tf.cast(tf.image.resize(tf.cast(image, tf.float32) + 0.5, size), tf.uint8)


def resize_to_fit(
    image: tf.Tensor, min_side: float | tf.Tensor, max_side: float | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes an image [h, w, 3] uint8 to its `fitted_size`.

    Returns:
        The image, [h2, w2, 3] uint8, and its size (h2, w2), [2] float32.
    """
    shape = tf.shape(image)
    size = fitted_size(shape[0], shape[1], min_side, max_side)
    return resize(image, size), tf.cast(size, tf.float32)


def pad_to(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Pads an image [h, w, C] with zeros at the bottom and the right to [height, width, C].

    Args:
        image: [h, w, C], with static C.
        height, width: Ints, which become the static shape, or [] tensors.
    """
    shape = tf.shape(image)
    channels = image.shape[-1]
    # tf.pad is more than twice as fast on rows of bytes as on pixels.
    rows = tf.reshape(image, [shape[0], shape[1] * channels])  # [h, w * C]
    rows = tf.pad(rows, [[0, height - shape[0]], [0, (width - shape[1]) * channels]])  # [height, width * C]
    return tf.reshape(rows, [height, width, channels])


def padded_shapes(
    min_side: int, max_side: int, divisor: int = 32, aspects: Sequence[float] = ASPECTS
) -> list[tuple[int, int]]:
    """Returns the shapes [(height, width), ...] that hold every image resized to these sides, smallest first.

    Few shapes, because each one is compiled separately: landscape and portrait for each aspect ratio, and for longer
    images. COCO's images at 800 to 1333 pixels are 20 % padding in the two shapes that hold all of them, and 4 % in
    these six.

    Args:
        min_side, max_side: Ints, pixels.
        divisor: Int; the shapes' sides are multiples of it.
        aspects: Long side / short side, each at least 1; an image gets the smallest shape that holds it. Empty for two
            shapes (one square where both sides round to the same number).
    """
    short, longest = (_round_up(side, divisor) for side in (min_side, max_side))
    sides = sorted({longest} | {min(_round_up(round(min_side * aspect), divisor), longest) for aspect in aspects})
    return [(short, side) for side in sides] + [(side, short) for side in sides if side != short]


def choose_shape(size: tf.Tensor, shapes: Sequence[tuple[int, int]]) -> tf.Tensor:
    """Returns the index, [] int64, of the first, and so the smallest, padded shape that holds a size [2] int32."""
    return tf.argmax(tf.reduce_all(tf.constant(shapes, tf.int32) >= size, axis=1))


def _round_up(side, divisor):
    return -(-side // divisor) * divisor
