"""Outlines: polygons [x1, y1, x2, y2, ...] of the rectangles and ellipses of annotation tools, in pixels."""

import math

import numpy as np

MIN_CORNERS = 12  # of the polygon that stands for an ellipse
MAX_CORNERS = 2000


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Returns the four corners, clockwise from the top left."""
    return [left, top, right, top, right, bottom, left, bottom]


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """Returns a polygon around (x, y) that is nowhere more than half a pixel inside the ellipse."""
    radius = max(radius_x, radius_y)
    # A chord over the angle 2a is radius * (1 - cos a) below its arc.
    corners = math.ceil(math.pi / math.acos(1 - 0.5 / radius)) if radius > 1 else MIN_CORNERS
    angles = 2 * np.pi * np.arange(n := min(max(corners, MIN_CORNERS), MAX_CORNERS)) / n
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1).ravel().tolist()


def rotate(polygon: list[float], degrees: float, x: float, y: float) -> list[float]:
    """Turns a polygon about (x, y), clockwise as seen in the image."""
    if not degrees:
        return polygon
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = np.reshape(polygon, (-1, 2)) - (x, y)
    return (points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)).ravel().tolist()
