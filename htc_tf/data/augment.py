"""Augmentations of one image: flip, scale jitter, random crops, large-scale jitter and color jitter.

Each is a function from sample to sample (`data.sample` lists the keys) that changes image and ground truth alike.
Images still have their original size, where a change costs least; they are resized afterwards. Gin files list the
functions in their order, `train/Input.augment = [@flip, @yours]`, or set one of the slots `train/Input.resize` and
`train/Input.color_jitter`. `data.copy_paste` takes two images and comes last.

All randomness comes from the sample's seed, a function of (seed, epoch, index): the same for any number of workers, and
after a restart.
"""

import math
from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from htc_tf.data.mask_crops import visible_boxes
from htc_tf.data.sample import Sample
from htc_tf.errors import UserError
from htc_tf.ops import boxes as box_ops
from htc_tf.ranges import FRACTION, SIDE, Each, check_ranges, number

# RGB to NTSC's YIQ, luma and two chroma axes, in which a hue shift is a rotation.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_TO_RGB = np.linalg.inv(_TO_YIQ)


def draw(sample: Sample, count: int) -> tuple[tf.Tensor, Sample]:
    """Draws random numbers from a sample's seed.

    Returns:
        [count] float32, uniform in [0, 1), and the sample with the seed for the next draw.
    """
    seed, following = tf.unstack(tf.random.experimental.stateless_split(sample["seed"], 2))
    return tf.random.stateless_uniform([count], seed), {**sample, "seed": following}


@gin.register
@check_ranges(
    probability=FRACTION,
)
def flip(sample: Sample, probability: float = 0.5) -> Sample:
    """Flips the image horizontally with the given probability."""
    numbers, sample = draw(sample, 1)
    width = tf.shape(sample["image"])[1]
    kept = {key: sample[key] for key in ("image", "semantic", "boxes", "masks", "crop_boxes")}

    def mirror():
        return {
            "image": tf.reverse(kept["image"], [1]),  # [h, w, 3]
            "semantic": tf.reverse(kept["semantic"], [1]),  # [h, w]
            "boxes": box_ops.flip(kept["boxes"], width),
            "masks": tf.reverse(kept["masks"], [2]),  # [G, M, M]
            "crop_boxes": box_ops.flip(kept["crop_boxes"], width),
        }

    return {**sample, **tf.cond(numbers[0] < probability, mirror, lambda: kept)}


@gin.register
@check_ranges(
    min_sides=Each(SIDE),
)
def multi_scale(sample: Sample, min_sides: Sequence[int]) -> Sample:
    """Draws the short side of the resized image from a list; the limit `max_side` stays.

    Args:
        sample: A sample.
        min_sides: Ints, pixels.
    Raises:
        UserError: A side is larger than `Input.min_side`, which determines the padded shapes.
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
def scale_range(sample: Sample, lowest: int, highest: int) -> Sample:
    """Draws the short side of the resized image uniformly from `lowest` to `highest` pixels; `max_side` stays.

    Raises:
        UserError: As in `multi_scale`.
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
    probability=FRACTION,
    min_sides=Each(SIDE),
    sizes=Each(SIDE, 2),
)
def random_crop(
    sample: Sample,
    probability: float = 0.5,
    min_sides: Sequence[int] = (400, 500, 600),
    sizes: Sequence[int] = (384, 600),
) -> Sample:
    """Crops a random window, as in the training of DETR (arXiv:2005.12872) and of Swin's detectors.

    The window is measured in pixels of the image resized to a short side of `min_sides`, but cut in pixels of the
    original image, which is then resized only once.

    Args:
        sample: A sample.
        probability: Share of the images that are cropped.
        min_sides: Ints, pixels. One is drawn at random; the limit `max_side` also applies.
        sizes: (lowest, highest) of the window's height and of its width, which are drawn independently.
    Raises:
        UserError: The lowest size is more than the highest.
    """
    if sizes[0] > sizes[1]:
        raise UserError(f"random_crop.sizes = {tuple(sizes)}: give the lowest size first")
    numbers, sample = draw(sample, 6)
    sides = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
    min_side = tf.gather(tf.constant(min_sides, tf.float32), tf.cast(numbers[1] * len(min_sides), tf.int32))
    limit = tf.cast(sample["max_side"], tf.float32)
    scale = tf.minimum(min_side / tf.reduce_min(sides), limit / tf.reduce_max(sides))
    lowest, highest = (tf.minimum(float(size), sides * scale) for size in sizes)  # [2] each
    window = tf.clip_by_value(tf.round((lowest + numbers[2:4] * (highest - lowest)) / scale), 1.0, sides)
    window = tf.where(numbers[0] < probability, window, sides)
    corner = tf.floor(numbers[4:] * (sides - window + 1.0))
    return crop(sample, tf.cast(corner, tf.int32), tf.cast(window, tf.int32))


@gin.register
@check_ranges(
    scales=Each(number(above=0, maximum=100), 2),
)
def large_scale_jitter(sample: Sample, scales: Sequence[float] = (0.1, 2.0)) -> Sample:
    """Resizes by a random scale and crops a random window if the image exceeds the padded shape.

    Large-scale jitter as in arXiv:2012.07177, section 4.1.

    Args:
        sample: A sample.
        scales: (lowest, highest) of the uniformly drawn scale; at 1 the image just fits into the padded shape.
    """
    numbers, sample = draw(sample, 3)
    sides = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
    canvas = tf.cast(tf.stack(sample["canvas"]), tf.float32)
    scale = (scales[0] + numbers[0] * (scales[1] - scales[0])) * tf.reduce_min(canvas / sides)
    # The window is cut in pixels of the original image, so that only visible pixels are resized. 1e-3 absorbs float32
    # rounding where the division is exact.
    window = tf.clip_by_value(tf.floor(canvas / scale + 1e-3), 1.0, sides)
    corner = tf.floor(numbers[1:] * (sides - window + 1.0))
    cut = crop(sample, tf.cast(corner, tf.int32), tf.cast(window, tf.int32))
    return {**cut, "min_side": scale * tf.reduce_min(window), "max_side": tf.reduce_max(canvas)}


def crop(sample: Sample, corner: tf.Tensor, size: tf.Tensor) -> Sample:
    """Crops a window out of a sample.

    Boxes become tight around the visible part of their objects, and invisible objects are dropped. Masks do not change:
    their crop boxes may extend beyond the image, where no cell is read.

    Args:
        sample: A sample.
        corner: [2] int32, (y, x) of the window, pixels of the image.
        size: [2] int32, (height, width) of the window.
    """
    top, left = tf.unstack(corner)
    bottom, right = tf.unstack(corner + size)
    shift = tf.tile(tf.cast(corner, tf.float32), [2])  # [y, x, y, x]
    limits = tf.cast(tf.concat([corner, corner + size], axis=0), tf.float32)
    whole = tf.reduce_all(sample["boxes"][:, :2] >= limits[:2], axis=1)  # [G], objects that no edge cuts
    whole &= tf.reduce_all(sample["boxes"][:, 2:] <= limits[2:], axis=1)
    boxes, crop_boxes = sample["boxes"] - shift, sample["crop_boxes"] - shift
    tight, visible = visible_boxes(boxes, sample["masks"], crop_boxes, size)
    boxes = tf.where(whole[:, None], boxes, tight)
    kept = tf.where(visible | whole)[:, 0]
    return {
        **sample,
        "image": sample["image"][top:bottom, left:right],
        "semantic": sample["semantic"][top:bottom, left:right],
        "boxes": tf.gather(boxes, kept),
        "classes": tf.gather(sample["classes"], kept),
        "masks": tf.gather(sample["masks"], kept),
        "crop_boxes": tf.gather(crop_boxes, kept),
    }


@gin.register
@check_ranges(
    brightness=FRACTION,
    contrast=FRACTION,
    saturation=FRACTION,
    hue=number(0, 0.5),
)
def photometric(
    sample: Sample, brightness: float = 0.125, contrast: float = 0.5, saturation: float = 0.5, hue: float = 0.05
) -> Sample:
    """Changes brightness, contrast, saturation and hue, each by a uniformly drawn amount.

    The four changes are one affine map of a pixel's (r, g, b). The default ranges are SSD's (arXiv:1512.02325); unlike
    in SSD, hue is a rotation about the gray axis, and contrast scales about middle gray.

    Args:
        sample: A sample.
        brightness: Largest offset, a fraction of the full range.
        contrast: Largest change of the factor 1 on the distance from middle gray.
        saturation: Largest change of the factor 1 on the distance from the pixel's own gray.
        hue: Largest rotation, a fraction of a full turn.
    """
    numbers, sample = draw(sample, 4)
    amounts = (numbers * 2.0 - 1.0) * tf.constant([brightness, contrast, saturation, hue], tf.float32)
    matrix, offset = _color_map(amounts[0], 1.0 + amounts[1], 1.0 + amounts[2], amounts[3])
    pixels = tf.reshape(tf.cast(sample["image"], tf.float32), [-1, 3])  # [h * w, 3]
    pixels = tf.matmul(pixels, matrix, transpose_b=True) + (offset + 0.5)  # 0.5: the cast below rounds
    pixels = tf.cast(tf.clip_by_value(pixels, 0.0, 255.0), tf.uint8)
    return {**sample, "image": tf.reshape(pixels, tf.shape(sample["image"]))}


def _color_map(brightness, contrast, saturation, hue):
    """Returns the matrix [3, 3] and the offset [] that apply saturation and hue, then contrast, then brightness."""
    to_yiq, to_rgb = (tf.constant(matrix, tf.float32) for matrix in (_TO_YIQ, _TO_RGB))
    cos = saturation * tf.cos(2.0 * math.pi * hue)
    sin = saturation * tf.sin(2.0 * math.pi * hue)
    turn = tf.stack([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])  # luma stays, chroma rotates
    matrix = contrast * tf.matmul(tf.matmul(to_rgb, turn), to_yiq)
    return matrix, 127.5 * (1.0 - contrast) + 255.0 * brightness
