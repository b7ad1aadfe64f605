"""Objects cut out of their picture along their masks, the rest transparent.

Before: a `inference.prediction.Prediction`. After: `inference.predict_files` saves them as PNG, to be laid on anything.
"""

import numpy as np
from PIL import Image, ImageFilter

from htc_tf.errors import UserError

SOFTNESS = 0.7  # pixels, the deviation of the blur that makes a mask's stairs an edge
MARGIN = 2  # pixels around the mask, where the edge fades


def cut_out(image, mask):
    """One object with an alpha channel.

    Args:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] bool.
    Returns:
        [h, w, 4] uint8 RGBA, cropped to the mask and two pixels around it, within the picture: alpha is 255 inside the
        mask, 0 outside, and between the two along the edge. None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    (top, bottom), (left, right) = (
        (max(axis[0] - MARGIN, 0), min(axis[-1] + 1 + MARGIN, end))
        for axis, end in ((rows, mask.shape[0]), (columns, mask.shape[1]))
    )
    part = mask[top:bottom, left:right]
    # Repeated beyond the picture's border, or an object cut by it would fade there.
    padded = Image.fromarray(np.pad(np.where(part, np.uint8(255), np.uint8(0)), MARGIN, mode="edge"))
    alpha = np.asarray(padded.filter(ImageFilter.GaussianBlur(SOFTNESS)))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.dstack([image[top:bottom, left:right], alpha])


def cut_outs(prediction, threshold):
    """[(class name, score, RGBA)] of a prediction's objects with at least that score, but for empty masks.

    Raises:
        UserError: the model has no masks.
    """
    shown = prediction.above(threshold)
    if shown.masks is None:
        raise UserError("cut-outs want a model with mask branches (MASKS = True)")
    pieces = [cut_out(shown.image, mask) for mask in shown.masks]
    rows = zip(shown.class_names, shown.scores.tolist(), pieces, strict=True)
    return [row for row in rows if row[-1] is not None]
