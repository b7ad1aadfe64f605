"""Outlines of shapes: polygons for circles, ellipses and rectangles, run lengths for masks, and objects of several."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .. import objects
from ..checks import Counters, Rejected

MIN_CORNERS = 16  # of the polygon that stands for an ellipse
MAX_GAP = 0.1  # pixels between the two


def are_points(points: Any) -> bool:
    """Returns True for a list of lists of two values, [[x, y], ...]."""
    return isinstance(points, list) and {list}.issuperset(map(type, points)) and {2}.issuperset(map(len, points))


def check_numbers(numbers: Sequence[Any], height: int, width: int) -> None:
    """Raises Rejected unless all are numbers within twice the image's longer side, which bounds what is drawn."""
    limit = 2 * max(height, width)
    try:  # at the speed of C; a NaN is unequal to itself, also as a sum
        numeric = {int, float}.issuperset(map(type, numbers)) and (total := sum(numbers)) == total
    except OverflowError:  # an integer that is too large for a float, beside floats
        numeric = False
    if not numeric or (numbers and not -limit <= min(numbers) <= max(numbers) <= limit):
        raise Rejected("polygon_malformed", f"points are not numbers, or far outside of {width} x {height} pixels")


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Returns the polygon [x1, y1, ...] of a rectangle between two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def rotate(polygon: Sequence[float], angle: float, x: float, y: float) -> list[float]:
    """Returns a polygon turned about (x, y), by radians clockwise as seen on the image."""
    cos, sin = math.cos(angle), math.sin(angle)
    points = np.reshape(polygon, (-1, 2)) - (x, y)
    return (points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)).ravel().tolist()


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> list[float]:
    """Returns a polygon that is nowhere more than a tenth of a pixel inside an ellipse.

    Args:
        x, y: Its center in pixels.
        radius_x, radius_y: Its half axes in pixels, 0 or more.
        angle: Its rotation in radians, clockwise as seen on the image.
    """
    radius = max(radius_x, radius_y)
    # A chord over the angle 2a is radius * (1 - cos a) inside its arc.
    corners = max(MIN_CORNERS, math.ceil(math.pi / math.acos(1 - MAX_GAP / radius))) if radius > 1 else MIN_CORNERS
    angles = 2 * np.pi * np.arange(corners) / corners
    along, across = radius_x * np.cos(angles), radius_y * np.sin(angles)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1).ravel().tolist()


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Returns the run lengths of a [H, W] mask, as COCO writes them in JSON."""
    return as_text(coco_mask.encode(np.asfortranarray(mask, np.uint8)))


def encode_crop(mask: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Returns the run lengths, in an image of height x width pixels, of a [h, w] mask at (top, left).

    The time depends on the size of the mask alone.
    """
    edges = np.diff(np.pad(mask.astype(bool), ((1, 1), (0, 0))), axis=0)  # [h + 1, w]: where a run starts or ends
    column, row = np.nonzero(edges.T)
    places = (column + left) * height + row + top  # down the columns of the image
    # A run that ends at the bottom and one that starts at the top of the next column are one.
    places, number = np.unique(places, return_counts=True)
    return encode_runs(places[number == 1], height, width)


def encode_runs(places: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Returns run lengths from the pixels, counted down the columns, where each run starts and ends in turn."""
    counts = np.diff(places, prepend=0, append=height * width).tolist()
    if not counts[-1]:  # the mask covers the last pixel
        counts.pop()
    return as_text(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def join(parts: Sequence[Any], height: int, width: int) -> Any:
    """Returns the segmentation of an object's parts: a list of their polygons, or run lengths if a part is a mask.

    Args:
        parts: Polygons [x1, y1, ...], and run lengths of the image's size.
        height, width: The image's size in pixels.
    """
    polygons, masks = ([part for part in parts if isinstance(part, kind)] for kind in (list, dict))
    if not masks:
        return polygons
    if polygons:
        masks.append({"size": [height, width], "counts": objects.to_rle(polygons, height, width, Counters())})
    return masks[0] if len(masks) == 1 else as_text(coco_mask.merge(masks))


def as_text(encoded: dict[str, Any]) -> dict[str, Any]:
    """Returns run lengths of pycocotools with a string for its bytes."""
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
