"""Agreement of boxes and masks: compares bbox with the mask's box, and finds the convention under which they agree."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .checks import Counters, Rejected, show

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax, pixels

# Allowed distance between an edge of the box and the same edge of the mask's box: pixels, plus a share of the mask's
# side. None of the 2,625 objects of COCO that we compared exceeds it; boxes drawn by hand around masks may.
TOLERANCE = 2.0
TOLERANCE_SHARE = 0.2
# Functions from the four numbers of bbox and the image's width and height to (xmin, ymin, xmax, ymax).
CONVENTIONS = {
    "bbox is [x1, y1, x2, y2]": lambda a, b, c, d, w, h: (a, b, c, d),
    "bbox is [center x, center y, width, height]": lambda a, b, c, d, w, h: _around(a, b, c, d),
    "bbox is in fractions of the image": lambda a, b, c, d, w, h: (a * w, b * h, (a + c) * w, (b + d) * h),
    "bbox is in percent of the image": lambda a, b, c, d, w, h: (
        a * w / 100,
        b * h / 100,
        (a + c) * w / 100,
        (b + d) * h / 100,
    ),
    "bbox is [x1, y1, x2, y2] in fractions of the image": lambda a, b, c, d, w, h: (a * w, b * h, c * w, d * h),
    "bbox is [center x, center y, width, height] in fractions of the image (YOLO's)": lambda a, b, c, d, w, h: _around(
        a * w, b * h, c * w, d * h
    ),
    "x and y are swapped in bbox or in the mask": lambda a, b, c, d, w, h: (b, a, b + d, a + c),
    "bbox is [y1, x1, y2, x2]": lambda a, b, c, d, w, h: (b, a, d, c),
    "bbox or the mask is upside down": lambda a, b, c, d, w, h: (a, h - b - d, a + c, h - b),
    "bbox or the mask is mirrored": lambda a, b, c, d, w, h: (w - a - c, b, w - a, b + d),
}
ROWS = "the run lengths go along the rows, not down the columns"
FRACTIONS = "the polygons are in fractions of the image"
SCALED = "bbox and mask are at different scales"
MAX_TRIED = 200  # objects per shard for which other conventions are tried


def check(
    bbox: list[float],
    box: Box,
    mask_box: Box | None,
    segmentation: Any,
    counts: bytes,
    height: int,
    width: int,
    counters: Counters,
) -> None:
    """Compares a box with the box of its mask.

    Args:
        bbox: The box as annotated, [x, y, width, height].
        box: The same box, clipped to the image.
        mask_box: The box of the mask; None if the mask has no pixels.
        segmentation: The mask as annotated.
        counts: The mask as compressed run lengths.
        height, width: The image's size in pixels.
        counters: Counters.
    Raises:
        Rejected: They disagree. `reads_as` lists the conventions under which they would agree.
    """
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    if agree(box, mask_box or center * 2):
        return
    if mask_box is None:
        detail = f"bbox {_rounded(bbox)}, but the mask has no pixels"
    else:
        left, top, right, bottom = mask_box
        detail = f"bbox {_rounded(bbox)}, but the mask's box is {_rounded([left, top, right - left, bottom - top])}"
    conventions = None
    if counters.counts["box_mask_disagree"] < MAX_TRIED:
        conventions = _other_conventions(bbox, box, mask_box, segmentation, counts, height, width)
    raise Rejected("box_mask_disagree", detail, conventions)


def agree(box: Box, mask_box: Box) -> bool:
    """True if every edge of the box is close to the same edge of the mask's box."""
    left, top, right, bottom = mask_box
    horizontal, vertical = TOLERANCE + TOLERANCE_SHARE * (right - left), TOLERANCE + TOLERANCE_SHARE * (bottom - top)
    return (
        abs(box[0] - left) <= horizontal
        and abs(box[2] - right) <= horizontal
        and abs(box[1] - top) <= vertical
        and abs(box[3] - bottom) <= vertical
    )


def extent(polygons: list[list[float]]) -> Box:
    """Returns the box around the points of all polygons of three points or more."""
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    xs = [value for polygon in drawn for value in polygon[::2]]
    ys = [value for polygon in drawn for value in polygon[1::2]]
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def _other_conventions(bbox, box, mask_box, segmentation, counts, height, width):
    """Returns the names of the conventions under which the box and the mask would agree."""
    bbox = [float(value) for value in bbox]  # integers raise OverflowError where floats become infinite
    found = []
    if mask_box is not None:
        for name, read in CONVENTIONS.items():
            if agree(_clip(read(*bbox, width, height), height, width), mask_box):
                found.append(name)
    if isinstance(segmentation, list):
        left, top, right, bottom = extent(segmentation)
        if max(right, bottom) <= 1 and agree(box, (left * width, top * height, right * width, bottom * height)):
            found.append(FRACTIONS)
    else:
        mask = coco_mask.decode({"size": [height, width], "counts": counts})
        # The same runs, laid along the rows instead of down the columns: [H, W].
        rows, columns = np.nonzero(mask.ravel(order="F").reshape(height, width))
        if len(rows) and agree(box, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)):
            found.append(ROWS)
    if mask_box is not None and not found and _scaled(bbox, mask_box):
        found.append(SCALED)
    return found


def _scaled(bbox, mask_box):
    """True if one scale factor, far from 1, maps the box onto the mask's box."""
    left, top, width, height = bbox
    factor = max(mask_box[2] - mask_box[0], mask_box[3] - mask_box[1]) / max(width, height)
    scaled = tuple(value * factor for value in (left, top, left + width, top + height))
    return not 0.8 < factor < 1.25 and agree(scaled, mask_box)


def _around(x, y, width, height):
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _clip(box, height, width):
    return tuple(min(max(value, 0.0), side) for value, side in zip(box, (width, height) * 2, strict=True))


def _rounded(values):
    return show([round(value, 2) for value in values])
