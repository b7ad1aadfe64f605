"""Copy-paste augmentation: objects of one image pasted into another (Ghiasi et al., arXiv:2012.07177).

Works on two rows of a batch of one padded shape, after all other augmentations. `data.record_order` decides whose
objects are pasted.
"""

import gin
import numpy as np
import tensorflow as tf
from PIL import Image

from htc_tf.data.mask_crops import cells_inside, visible_boxes
from htc_tf.data.numpy_op import numpy_op
from htc_tf.ranges import FRACTION, check_ranges
from htc_tf.structures import Batch, GroundTruth


@gin.register
@check_ranges(
    probability=FRACTION,
)
def copy_paste(row: Batch, source: Batch, seed: tf.Tensor, probability: float = 0.5) -> Batch:
    """Pastes random objects of a source row at their own position and cuts the masks beneath.

    Boxes become tight around the visible part of their objects, and fully occluded objects are dropped. Nothing is
    pasted into the padding; objects without a mask, or without a pixel at this size, and more objects than fit into
    max_objects, are not pasted. Edges are not blended: in the paper, blending changes nothing.

    Args:
        row: A `structures.Batch` without its first axis.
        source: The row whose objects are pasted.
        seed: [2] int64.
        probability: Chance of each source object to be pasted.
    Returns:
        The augmented row.
    """
    ours, theirs = row.truth, source.truth
    limit = ours.valid.shape[0]
    chosen = theirs.valid & (tf.random.stateless_uniform([limit], seed) < probability)  # [G]
    chosen &= tf.reduce_all(theirs.crop_boxes[:, 2:] > theirs.crop_boxes[:, :2], axis=1)  # has a mask
    chosen &= tf.cumsum(tf.cast(chosen, tf.int32)) <= limit - tf.reduce_sum(tf.cast(ours.valid, tf.int32))
    size = tf.minimum(row.sizes, source.sizes)
    boxes, visible = visible_boxes(theirs.boxes, theirs.masks, theirs.crop_boxes, size)
    chosen &= visible

    arguments = [row.images, source.images, size, chosen, theirs.masks, theirs.crop_boxes, ours.masks, ours.crop_boxes]
    images, pasted, drawn, masks, occluded = numpy_op(
        _compose, arguments, [tf.uint8, tf.bool, tf.bool, tf.uint8, tf.bool]
    )
    # numpy_op loses static shapes.
    pasted = tf.ensure_shape(pasted, row.images.shape[:2])
    masks = tf.ensure_shape(masks, ours.masks.shape)
    drawn, occluded = tf.ensure_shape(drawn, [limit]), tf.ensure_shape(occluded, [limit])
    tight, visible = visible_boxes(ours.boxes, masks, ours.crop_boxes, row.sizes, ours.masks)
    remaining = ours._replace(
        boxes=tf.where(occluded[:, None], tight, ours.boxes), masks=masks, valid=ours.valid & (visible | ~occluded)
    )
    stride = tf.shape(row.images)[0] // tf.shape(ours.semantic)[0]
    semantic = tf.where(pasted[::stride, ::stride], theirs.semantic, ours.semantic)
    # Where a crop cut the source, its masks go on, and here an image may be.
    inside = cells_inside(theirs.crop_boxes, size, theirs.masks.shape[-1])
    cut = tf.where(inside, theirs.masks, tf.zeros_like(theirs.masks))
    truth = _merge(remaining, theirs._replace(boxes=boxes, masks=cut, valid=drawn), limit)
    return row._replace(images=tf.ensure_shape(images, row.images.shape), truth=truth._replace(semantic=semantic))


def _merge(ours, theirs, limit):
    """Concatenates the valid objects of two ground truths, at most `limit`, in their order and followed by padding."""
    fields = ("boxes", "classes", "masks", "crop_boxes")
    valid = tf.concat([ours.valid, theirs.valid], axis=0)  # [2 G]
    order = tf.argsort(tf.cast(~valid, tf.int32), stable=True)[:limit]  # [G], valid objects first
    valid = tf.gather(valid, order)

    def take(field):
        values = tf.gather(tf.concat([getattr(ours, field), getattr(theirs, field)], axis=0), order)
        mask = tf.reshape(valid, [-1] + [1] * (values.shape.rank - 1))  # [G, 1, ...]
        return tf.where(mask, values, tf.zeros([], values.dtype))

    return GroundTruth(**{field: take(field) for field in fields}, valid=valid, semantic=ours.semantic)


def _compose(image, source, size, chosen, masks, crop_boxes, our_masks, our_crop_boxes):
    """Pastes pixels and cuts masks, in NumPy.

    Args:
        image, source: [H, W, 3] uint8.
        size: [2] float32, height and width of the area that both images cover.
        chosen: [G] bool, source objects to paste.
        masks, crop_boxes: [G, M, M] uint8 and [G, 4] float32 of the source.
        our_masks, our_crop_boxes: The same fields of the image that receives the objects.
    Returns:
        image: [H, W, 3] uint8, the composed image.
        pasted: [H, W] bool, the pasted pixels.
        drawn: [G] bool, the chosen objects that have a pixel.
        our_masks: [G, M, M] uint8, without occluded cells.
        occluded: [G] bool, objects of the image that lost cells.
    """
    image, pasted, drawn = image.copy(), np.zeros(image.shape[:2], bool), np.zeros(len(masks), bool)
    for index in np.flatnonzero(chosen):
        window, bitmap = _rasterize(masks[index], crop_boxes[index], size.astype(int))
        image[window][bitmap] = source[window][bitmap]
        pasted[window] |= bitmap
        drawn[index] = bitmap.any()
    our_masks, occluded = our_masks.copy(), np.zeros(len(our_masks), bool)
    for index, crop_box in enumerate(our_crop_boxes):
        covered = _sample_cells(pasted, crop_box, our_masks.shape[-1]) & (our_masks[index] > 0)  # [M, M]
        occluded[index] = covered.any()
        our_masks[index][covered] = 0
    return image, pasted, drawn, our_masks, occluded


def _rasterize(mask, crop_box, size):
    """Returns the window of an image that a mask covers, as two slices, and the mask's pixels in it, [h, w] bool."""
    lower = np.maximum(np.ceil(crop_box[:2] - 1e-3), 0).astype(int)  # 1e-3 absorbs float32 rounding
    upper = np.minimum(np.floor(crop_box[2:] + 1e-3), size).astype(int)
    window = tuple(slice(start, max(end, start)) for start, end in zip(lower, upper, strict=True))
    height, width = np.maximum(upper - lower, 0)
    if not height or not width:
        return window, np.zeros((height, width), bool)
    cell = (crop_box[2:] - crop_box[:2]) / mask.shape[-1]
    (top, left), (bottom, right) = ((np.clip((at - crop_box[:2]) / cell, 0, mask.shape[-1])) for at in (lower, upper))
    cells = (float(left), float(top), float(right), float(bottom))  # the window in units of cells
    pixels = Image.fromarray(mask).resize((int(width), int(height)), Image.Resampling.BILINEAR, box=cells)
    return window, np.asarray(pixels) >= 128


def _sample_cells(bitmap, crop_box, cells):
    """Returns a bitmap's pixel under the center of each cell, [M, M] bool; False outside the bitmap."""
    at = np.floor(crop_box[:2] + (np.arange(cells)[:, None] + 0.5) * (crop_box[2:] - crop_box[:2]) / cells).astype(int)
    rows, columns = at.T  # [M] each
    inside = (rows >= 0) & (rows < len(bitmap)), (columns >= 0) & (columns < bitmap.shape[1])
    rows, columns = np.clip(rows, 0, len(bitmap) - 1), np.clip(columns, 0, bitmap.shape[1] - 1)
    return bitmap[np.ix_(rows, columns)] & np.logical_and.outer(*inside)
