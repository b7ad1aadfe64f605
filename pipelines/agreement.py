"""Whether an object's box and its mask agree, and if not, under which other convention they would.

Called by `pipelines.objects`; `pipelines.report` sums up the conventions over all objects that disagree.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pipelines.checks import Rejected, Tally, show

Box = tuple[float, float, float, float]  # xmin, ymin, xmax, ymax, pixels

# An edge of a box may be off the mask's own by so many pixels and this part of the mask's side. Of COCO's 2,625 objects
# at hand none is off by more; boxes drawn by hand around masks are.
PIXELS = 2.0
PART = 0.2
# A box's four numbers and the image's width and height, to its edges.
READINGS = {
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
MAX_READ = 200  # objects of a shard for which other conventions are tried


def check(
    bbox: list[float],
    box: Box,
    own: Box | None,
    segmentation: Any,
    counts: bytes,
    height: int,
    width: int,
    tally: Tally,
) -> None:
    """Compares a box with the mask's own.

    Args:
      bbox: as annotated; `box` is the same, clipped to the image.
      own: the mask's own box, None where it has no pixel.
      segmentation: as annotated, and `counts` the compressed run lengths of it.

    Raises:
      Rejected: they disagree. It lists the conventions of READINGS and below that they agree under.
    """
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    if agree(box, own or center * 2):
        return
    detail = f"bbox {_rounded(bbox)}, the mask has no pixel" if own is None else ""
    if own is not None:
        mask = [own[0], own[1], own[2] - own[0], own[3] - own[1]]
        detail = f"bbox {_rounded(bbox)}, the mask's own box {_rounded(mask)}"
    readings = None
    if tally.counters["box_mask_disagree"] < MAX_READ:
        readings = _other_readings(bbox, box, own, segmentation, counts, height, width)
    raise Rejected("box_mask_disagree", detail, readings)


def agree(box: Box, own: Box) -> bool:
    """Whether every edge of the box is near that of the mask's own box."""
    across, along = PIXELS + PART * (own[2] - own[0]), PIXELS + PART * (own[3] - own[1])
    return (
        abs(box[0] - own[0]) <= across
        and abs(box[2] - own[2]) <= across
        and abs(box[1] - own[1]) <= along
        and abs(box[3] - own[3]) <= along
    )


def extent(polygons: list[list[float]]) -> Box:
    """The box around the points of all polygons of three points or more."""
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    xs = [value for polygon in drawn for value in polygon[::2]]
    ys = [value for polygon in drawn for value in polygon[1::2]]
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def _other_readings(bbox, box, own, segmentation, counts, height, width):
    readings = []
    if own is not None:
        for name, read in READINGS.items():
            if agree(_clip(read(*bbox, width, height), height, width), own):
                readings.append(name)
    if isinstance(segmentation, list):
        left, top, right, bottom = extent(segmentation)
        if max(right, bottom) <= 1 and agree(box, (left * width, top * height, right * width, bottom * height)):
            readings.append(FRACTIONS)
    else:
        mask = coco_mask.decode({"size": [height, width], "counts": counts})
        rows, columns = np.nonzero(mask.ravel(order="F").reshape(height, width))
        if len(rows) and agree(box, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)):
            readings.append(ROWS)
    if own is not None and not readings and _scaled(bbox, own):
        readings.append(SCALED)
    return readings


def _scaled(bbox, own):
    """Whether one factor far from 1 takes the box to the mask's own."""
    left, top, width, height = bbox
    factor = max(own[2] - own[0], own[3] - own[1]) / max(width, height)
    scaled = tuple(value * factor for value in (left, top, left + width, top + height))
    return not 0.8 < factor < 1.25 and agree(scaled, own)


def _around(x, y, width, height):
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _clip(box, height, width):
    return tuple(min(max(value, 0.0), side) for value, side in zip(box, (width, height) * 2, strict=True))


def _rounded(values):
    return show([round(value, 2) for value in values])
