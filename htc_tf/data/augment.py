"""Augmentations: functions from sample to sample, each a change that leaves the truth true.

Before them: `data.sample`, which lists a sample's keys; images are still of their original size, which is where a
change costs least. After them: `data.ground_truth`. A run's gin file lists them in their order:
`Input.augment = [@flip, @yours]`. More of them: `data.large_scale_jitter`, and `data.copy_paste`, which takes two images.

All randomness comes from the sample's own seed, a function of (seed, epoch, index): the same whatever the number of
workers, and after a restart.
"""

import math

import gin
import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.ranges import FRACTION, SIDE, Each, check_ranges, number

# RGB to luma and two colour axes, in which turning the hue is a rotation (NTSC's YIQ).
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


def draw(sample, count):
    """Takes random numbers from a sample's seed.

    Returns:
      [count] float32, uniform in [0, 1), and the sample with the seed that the next draw will use.
    """
    seed, following = tf.unstack(tf.random.experimental.stateless_split(sample["seed"], 2))
    return tf.random.stateless_uniform([count], seed), {**sample, "seed": following}


@gin.register
@check_ranges(
    probability=FRACTION,
)
def flip(sample, probability=0.5):
    """Mirrors left and right."""
    numbers, sample = draw(sample, 1)
    width = tf.shape(sample["image"])[1]
    kept = {key: sample[key] for key in ("image", "semantic", "boxes", "masks", "crop_boxes")}

    def mirror():
        return {
            "image": tf.reverse(kept["image"], [1]),
            "semantic": tf.reverse(kept["semantic"], [1]),
            "boxes": box_ops.flip(kept["boxes"], width),
            "masks": tf.reverse(kept["masks"], [2]),
            "crop_boxes": box_ops.flip(kept["crop_boxes"], width),
        }

    return {**sample, **tf.cond(numbers[0] < probability, mirror, lambda: kept)}


@gin.register
@check_ranges(
    min_sides=Each(SIDE),
)
def multi_scale(sample, min_sides):
    """Resizes each image to a short side taken from a list, in pixels; `max_side` stays.

    Raises:
      UserError: a side is larger than the input's own `min_side`, which the padded shapes are made for.
    """
    _check_sides("multi_scale.min_sides", min_sides, sample["min_side"])
    numbers, sample = draw(sample, 1)
    choice = tf.cast(numbers[0] * len(min_sides), tf.int32)
    return {**sample, "min_side": tf.gather(tf.constant(min_sides, tf.int32), choice)}


@gin.register
@check_ranges(
    lowest=SIDE,
    highest=SIDE,
)
def scale_range(sample, lowest, highest):
    """Resizes each image to a short side from `lowest` to `highest` pixels, each as likely; `max_side` stays.

    Raises:
      UserError: as `multi_scale`.
    """
    _check_sides("scale_range.lowest, highest", [lowest, highest], sample["min_side"])
    if lowest > highest:
        raise UserError(f"scale_range.lowest = {lowest} is more than scale_range.highest = {highest}")
    numbers, sample = draw(sample, 1)
    return {**sample, "min_side": lowest + tf.cast(numbers[0] * (highest + 1 - lowest), tf.int32)}


def _check_sides(name, sides, limit):
    if max(sides) > limit:
        raise UserError(f"{name} = {sides}: give sides from 1 to Input.min_side, which is {limit}")


@gin.register
@check_ranges(
    brightness=FRACTION,
    contrast=FRACTION,
    saturation=FRACTION,
    hue=number(0, 0.5),
)
def photometric(sample, brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05):
    """Changes the colours, each of the four by an amount drawn evenly.

    All together are one affine map of a pixel's (r, g, b). The ranges are those of SSD (arXiv:1512.02325); unlike
    there the hue turns about the grey axis, and contrast spreads about middle grey.

    Args:
      brightness: added to each channel, -brightness ... brightness of the full range.
      contrast: distance from middle grey times 1 - contrast ... 1 + contrast.
      saturation: distance from the pixel's own grey times 1 - saturation ... 1 + saturation.
      hue: turned by -hue ... hue of a full turn.
    """
    numbers, sample = draw(sample, 4)
    amounts = (numbers * 2.0 - 1.0) * tf.constant([brightness, contrast, saturation, hue], tf.float32)
    matrix, offset = _colour_map(amounts[0], 1.0 + amounts[1], 1.0 + amounts[2], amounts[3])
    pixels = tf.reshape(tf.cast(sample["image"], tf.float32), [-1, 3])
    pixels = tf.matmul(pixels, matrix, transpose_b=True) + (offset + 0.5)
    pixels = tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)
    return {**sample, "image": tf.reshape(pixels, tf.shape(sample["image"]))}


def _colour_map(brightness, contrast, saturation, hue):
    """The matrix [3, 3] and the offset [] that apply saturation and hue, then contrast, then brightness."""
    to_yiq, to_rgb = (tf.constant(matrix, tf.float32) for matrix in (_TO_YIQ, _TO_RGB))
    cos = saturation * tf.cos(2.0 * math.pi * hue)
    sin = saturation * tf.sin(2.0 * math.pi * hue)
    turn = tf.stack([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    matrix = contrast * tf.matmul(tf.matmul(to_rgb, turn), to_yiq)
    return matrix, 127.5 * (1.0 - contrast) + 255.0 * brightness
