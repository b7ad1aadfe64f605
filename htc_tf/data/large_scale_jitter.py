"""Large-scale jitter: a window of the image, larger or smaller than it was (arXiv:2012.07177, section 4.1).

Before it and after it as for every augmentation: see `data.augment`.
"""

import gin
import tensorflow as tf

from htc_tf.data.augment import draw
from htc_tf.data.occlusion import find_visible
from htc_tf.ranges import Each, check_ranges, number


@gin.register
@check_ranges(
    scales=Each(number(above=0, most=100), 2),
)
def large_scale_jitter(sample, scales=(0.1, 2.0)):
    """Resizes to a scale drawn evenly and, where the image then exceeds the padded shape, crops it anywhere.

    Args:
      scales: lowest and highest; at 1 the image just fits into the padded shape.
    """
    numbers, sample = draw(sample, 3)
    sides = tf.cast(tf.shape(sample["image"])[:2], tf.float32)
    canvas = tf.cast(tf.stack(sample["canvas"]), tf.float32)
    scale = (scales[0] + numbers[0] * (scales[1] - scales[0])) * tf.reduce_min(canvas / sides)
    # Cut in pixels of the original, so that only what is seen is resized; the margin is for rounding in float32.
    window = tf.clip_by_value(tf.floor(canvas / scale + 1e-3), 1.0, sides)
    corner = tf.floor(numbers[1:] * (sides - window + 1.0))
    cut = crop(sample, tf.cast(corner, tf.int32), tf.cast(window, tf.int32))
    return {**cut, "min_side": scale * tf.reduce_min(window), "max_side": tf.reduce_max(canvas)}


def crop(sample, corner, size):
    """The window of a sample at a corner [2] int32 (y, x), of a size [2] int32 (height, width), pixels of its image.

    Boxes become tight around what is seen, and objects of which nothing is seen are dropped. Masks stay as they are:
    their frames may lie across the edge of the image, and nothing looks at the cells beyond it.
    """
    top, left = tf.unstack(corner)
    bottom, right = tf.unstack(corner + size)
    shift = tf.tile(tf.cast(corner, tf.float32), [2])
    limits = tf.cast(tf.concat([corner, corner + size], axis=0), tf.float32)
    whole = tf.reduce_all(sample["boxes"][:, :2] >= limits[:2], axis=1)
    whole &= tf.reduce_all(sample["boxes"][:, 2:] <= limits[2:], axis=1)
    boxes, frames = sample["boxes"] - shift, sample["crop_boxes"] - shift
    visible, seen = find_visible(boxes, sample["masks"], frames, size)
    boxes = tf.where(whole[:, None], boxes, visible)
    kept = tf.where(seen | whole)[:, 0]
    return {
        **sample,
        "image": sample["image"][top:bottom, left:right],
        "semantic": sample["semantic"][top:bottom, left:right],
        "boxes": tf.gather(boxes, kept),
        "classes": tf.gather(sample["classes"], kept),
        "masks": tf.gather(sample["masks"], kept),
        "crop_boxes": tf.gather(frames, kept),
    }
