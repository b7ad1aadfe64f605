"""Outlines of shapes: polygons for circles, ellipses and rectangles, run lengths for masks, and objects of several.

A mask costs memory for its runs, not for the pixels of its image, and has a bounded number of runs.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .. import objects
from ..checks import Counters, Rejected, show
from .labeled import LabeledObject

MIN_CORNERS = 16  # of the polygon that stands for an ellipse
MAX_GAP = 0.1  # pixels between the two
STRIP = 1 << 22  # pixels of a mask whose runs are found at a time; 16 bytes each at most
MAX_RUNS = 2_000_000  # of a mask, down the columns: more than outlines of MAX_OUTLINE pixels can have


def read_label(shape: Any) -> str:
    """Returns the label of a shape in a JSON file, without blanks around it."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, (str, type(None))):
        raise Rejected("annotation_malformed", f"label is {show(label)}, not a text in quotes")
    if not label or not label.strip():
        raise Rejected("annotation_malformed", "has no label")
    return label.strip()


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
    return encode_crop(mask, 0, 0, *mask.shape)


def encode_crop(mask: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Returns the run lengths, in an image of height x width pixels, of a [h, w] mask at (top, left).

    The time depends on the size of the mask alone.
    """
    parts = (mask[:, first:end] for first, end in strips(*mask.shape))
    return encode_strips(parts, top, left, height, width)


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yields the first column, and that after the last one, of strips of at most `STRIP` pixels, or of one column."""
    step = max(1, STRIP // height)
    for first in range(0, width, step):
        yield first, min(first + step, width)


def encode_strips(parts: Iterable[np.ndarray], top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Returns what `encode_crop` does for a mask that comes in strips, [h, columns] each."""
    found, runs = [], 0
    for part in parts:
        edges = np.diff(np.pad(part.astype(bool), ((1, 1), (0, 0))), axis=0)  # [h + 1, columns]: a run starts or ends
        column, row = np.nonzero(edges.T)
        runs += len(row) // 2
        check_runs(runs)
        found.append((column + left) * height + row + top)  # down the columns of the image
        left += part.shape[1]
    return encode_runs(np.concatenate(found), height, width)


def check_runs(number: int) -> None:
    """Raises Rejected if masks have too many runs."""
    if number > MAX_RUNS:
        raise Rejected(
            "polygon_too_long", f"masks of more than {MAX_RUNS:,} runs of pixels, as of noise: smooth the outlines"
        )


def encode_runs(places: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Returns run lengths from the pixels, counted down the columns, where each run starts and ends in turn."""
    # A run that ends where the next one starts, at the top of the next column, is one with it.
    places, number = np.unique(places, return_counts=True)
    counts = np.diff(places[number == 1], prepend=0, append=height * width)
    if not counts[-1]:  # the mask covers the last pixel
        counts = counts[:-1]
    return as_text(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def join_all(
    parts: Mapping[tuple[str, str], Sequence[Any]],
    path: Path,
    height: int,
    width: int,
    crowds: Collection[tuple[str, str]] = (),
) -> tuple[list[LabeledObject], list[str]]:
    """Returns the objects of a file's shapes, and a text for each object whose parts cannot be joined.

    Args:
        parts: The parts of each object as in `join`, by its label and the entry of the file that states it.
        path: The file.
        height, width: The image's size in pixels.
        crowds: The keys of the objects that are crowd regions.
    """
    found, problems = [], []
    for (label, entry), shapes in parts.items():
        try:
            joined = join(shapes, height, width)
        except Rejected as error:
            problems.append(f"{entry}: {error.detail}")
        else:
            found.append(LabeledObject(label, joined, crowd=(label, entry) in crowds, place=f"{path}: {entry}"))
    return found, problems


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
