"""Outlines of masks as polygons with holes, along the borders of pixels, in NumPy."""

from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 0.5  # pixels, by default


class Polygon(NamedTuple):
    """One part of a mask.

    Attributes:
        outer: [p, 2] float64, its corners x, y in pixels, clockwise as seen on the image.
        holes: A list of such arrays, counterclockwise.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


def trace_polygons(run_lengths: list[dict[str, Any]], tolerance: float = TOLERANCE) -> list[list[Polygon]]:
    """Returns the parts of each mask."""
    raise NotImplementedError
