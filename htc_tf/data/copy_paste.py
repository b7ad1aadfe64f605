"""Copy-paste: objects of one image put into another (Ghiasi et al., arXiv:2012.07177).

Before it: two images of one padded shape, each augmented and laid out by `data.ground_truth`. After it: `data.input` makes
the batch. Whose objects are pasted is decided by `data.record_order`.
"""

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from htc_tf.data.numpy_op import numpy_op
from htc_tf.data.occlusion import find_visible
from htc_tf.ranges import FRACTION, check_ranges
from htc_tf.structures import GroundTruth


@gin.register
@check_ranges(
    probability=FRACTION,
)
def copy_paste(row, partner, seed, probability=0.5):
    """Pastes some of the partner's objects where they are; what they hide is cut out of the masks beneath.

    Boxes become tight around what is still seen, and objects of which nothing is seen are dropped. What would lie
    beyond the image, in its padding, is not pasted; nor are objects without a mask, or more than fit into max_objects.
    Edges are not blended: the paper found that to change nothing.

    Args:
      row, partner: a `structures.Batch` each, without its first axis.
      seed: [2] int64.
      probability: with which each of the partner's objects is pasted.

    Returns:
      The row.
    """
    mine, theirs = row.truth, partner.truth
    limit = mine.valid.shape[0]
    chosen = theirs.valid & (tf.random.stateless_uniform([limit], seed) < probability)
    chosen &= tf.reduce_all(theirs.crop_boxes[:, 2:] > theirs.crop_boxes[:, :2], axis=1)
    chosen &= tf.cumsum(tf.cast(chosen, tf.int32)) <= limit - tf.reduce_sum(tf.cast(mine.valid, tf.int32))
    size = tf.minimum(row.sizes, partner.sizes)
    boxes, seen = find_visible(theirs.boxes, theirs.masks, theirs.crop_boxes, size)
    chosen &= seen

    arguments = [row.images, partner.images, size, chosen, theirs.masks, theirs.crop_boxes, mine.masks]
    types = [tf.uint8, tf.bool, tf.uint8, tf.bool]
    images, pasted, masks, hidden = numpy_op(_compose, [*arguments, mine.crop_boxes], types)
    pasted = tf.ensure_shape(pasted, row.images.shape[:2])
    masks, hidden = tf.ensure_shape(masks, mine.masks.shape), tf.ensure_shape(hidden, [limit])
    visible, seen = find_visible(mine.boxes, masks, mine.crop_boxes, row.sizes)
    left = mine._replace(
        boxes=tf.where(hidden[:, None], visible, mine.boxes), masks=masks, valid=mine.valid & (seen | ~hidden)
    )
    stride = tf.shape(row.images)[0] // tf.shape(mine.semantic)[0]
    semantic = tf.where(pasted[::stride, ::stride], theirs.semantic, mine.semantic)
    truth = _merge(left, theirs._replace(boxes=boxes, valid=chosen), limit)
    return row._replace(images=tf.ensure_shape(images, row.images.shape), truth=truth._replace(semantic=semantic))


def _merge(mine, theirs, limit):
    """The valid objects of two truths, which are at most `limit`, in their order and then padding."""
    fields = ("boxes", "classes", "masks", "crop_boxes")
    valid = tf.concat([mine.valid, theirs.valid], axis=0)
    order = tf.argsort(tf.cast(~valid, tf.int32), stable=True)[:limit]
    valid = tf.gather(valid, order)

    def take(field):
        values = tf.gather(tf.concat([getattr(mine, field), getattr(theirs, field)], axis=0), order)
        shown = tf.reshape(valid, [-1] + [1] * (values.shape.rank - 1))
        return tf.where(shown, values, tf.zeros([], values.dtype))

    return GroundTruth(**{field: take(field) for field in fields}, valid=valid, semantic=mine.semantic)


def _compose(image, other, size, chosen, masks, frames, my_masks, my_frames):
    """The image with the chosen masks' pixels of the other; which pixels those are; my masks less what they hide, and
    from which of mine that took something."""
    image, pasted = image.copy(), np.zeros(image.shape[:2], bool)
    for mask, frame in zip(masks[chosen], frames[chosen], strict=True):
        place, bitmap = _draw(mask, frame, size.astype(int))
        image[place][bitmap] = other[place][bitmap]
        pasted[place] |= bitmap
    my_masks, hidden = my_masks.copy(), np.zeros(len(my_masks), bool)
    for index, frame in enumerate(my_frames):
        covered = _sample(pasted, frame, my_masks.shape[-1]) & (my_masks[index] > 0)
        hidden[index] = covered.any()
        my_masks[index][covered] = 0
    return image, pasted, my_masks, hidden


def _draw(mask, frame, size):
    """A mask's pixels in an image of that size: the window around them, and [h, w] bool."""
    lower = np.maximum(np.ceil(frame[:2] - 1e-3), 0).astype(int)
    upper = np.minimum(np.floor(frame[2:] + 1e-3), size).astype(int)
    place = tuple(slice(start, max(end, start)) for start, end in zip(lower, upper, strict=True))
    height, width = np.maximum(upper - lower, 0)
    if not height or not width:
        return place, np.zeros((height, width), bool)
    cell = (frame[2:] - frame[:2]) / mask.shape[-1]
    (top, left), (bottom, right) = ((np.clip((at - frame[:2]) / cell, 0, mask.shape[-1])) for at in (lower, upper))
    window = (float(left), float(top), float(right), float(bottom))
    pixels = Image.fromarray(mask).resize((int(width), int(height)), Image.Resampling.BILINEAR, box=window)
    return place, np.asarray(pixels) >= 128


def _sample(bitmap, frame, cells):
    """[M, M] bool: the pixel of a bitmap under the centre of each cell; False outside the bitmap."""
    at = np.floor(frame[:2] + (np.arange(cells)[:, None] + 0.5) * (frame[2:] - frame[:2]) / cells).astype(int)
    rows, columns = at.T
    inside = (rows >= 0) & (rows < len(bitmap)), (columns >= 0) & (columns < bitmap.shape[1])
    rows, columns = np.clip(rows, 0, len(bitmap) - 1), np.clip(columns, 0, bitmap.shape[1] - 1)
    return bitmap[np.ix_(rows, columns)] & np.logical_and.outer(*inside)
