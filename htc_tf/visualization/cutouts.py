"""Cutouts: detected objects cut out of their image along their masks, on a transparent background."""

import numpy as np
from PIL import Image, ImageFilter

from htc_tf.errors import UserError

SOFTNESS = 0.7  # pixels; standard deviation of the blur that smooths a mask's stairs into an edge
MARGIN = 2  # pixels around the mask in which the edge fades


def cut_out(image, mask):
    """Cuts one object out.

    Args:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] bool.
    Returns:
        [h, w, 4] uint8 RGBA, the mask's bounding box with a margin of two pixels, clipped to the image. Alpha is 255
        inside the mask, 0 outside, and fades along the edge. None if the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    (top, bottom), (left, right) = (
        (max(axis[0] - MARGIN, 0), min(axis[-1] + 1 + MARGIN, end))
        for axis, end in ((rows, mask.shape[0]), (columns, mask.shape[1]))
    )
    part = mask[top:bottom, left:right]
    # The edge values repeat beyond the image's border: an object that the border cuts must not fade there.
    padded = Image.fromarray(np.pad(np.where(part, np.uint8(255), np.uint8(0)), MARGIN, mode="edge"))
    alpha = np.asarray(padded.filter(ImageFilter.GaussianBlur(SOFTNESS)))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.dstack([image[top:bottom, left:right], alpha])


def cut_outs(prediction, threshold):
    """Cuts out the objects of an `inference.prediction.Prediction` that score at least `threshold`.

    Returns:
        A list of (class name, score, [h, w, 4] uint8 RGBA), without empty masks.
    Raises:
        UserError: The model has no mask branches.
    """
    shown = prediction.above(threshold)
    if shown.run_lengths is None:
        raise UserError("cutouts need a model with mask branches (MASKS = True)")
    pieces = [cut_out(shown.image, found.mask) for found in shown]  # one mask at a time is decoded
    rows = zip(shown.class_names, shown.scores.tolist(), pieces, strict=True)
    return [row for row in rows if row[-1] is not None]
