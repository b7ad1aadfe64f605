"""Polygons with holes, and several polygons, as a single ring, for formats without holes or parts.

Rings are joined by bridges: two segments on the same line, there and back, which enclose nothing.
"""

from collections.abc import Sequence

import numpy as np

from htc_tf.ops.polygons import Polygon


def join_holes(polygon: Polygon) -> np.ndarray:
    """Returns one ring [p, 2] of a Polygon.

    Each hole, the highest first, is joined to what is vertically above it: the outer ring or a higher hole.
    """
    ring = polygon.outer
    for hole in sorted(polygon.holes, key=lambda hole: hole[:, 1].min()):
        top = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
        x, y = hole[top]
        begin, end = ring, np.roll(ring, -1, axis=0)
        over = (np.minimum(begin[:, 0], end[:, 0]) <= x) & (x <= np.maximum(begin[:, 0], end[:, 0]))
        width = end[:, 0] - begin[:, 0]
        share = np.where(width != 0, (x - begin[:, 0]) / np.where(width != 0, width, 1), begin[:, 1] < end[:, 1])
        crossing = begin[:, 1] + share * (end[:, 1] - begin[:, 1])  # of a vertical side, its lower end
        crossing = np.where(over & (crossing <= y), crossing, -np.inf)
        place = int(crossing.argmax())
        bridge = np.array([[x, crossing[place]]])
        ring = np.concatenate([ring[: place + 1], bridge, hole[top:], hole[: top + 1], bridge, ring[place + 1 :]])
    return drop_repeated(ring)


def join_parts(polygons: Sequence[Polygon]) -> np.ndarray:
    """Returns one ring [p, 2] of the Polygons of a mask. Each part is joined to the nearest point of those before."""
    ring, *others = map(join_holes, polygons)
    for other in others:
        # The distances from all points of one ring to all of another, [p, q].
        squared = ((ring[:, None] - other[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(squared.argmin(), squared.shape)
        ring = np.concatenate([ring[: here + 1], other[there:], other[: there + 1], ring[here:]])
    return drop_repeated(ring)


def drop_repeated(ring: np.ndarray) -> np.ndarray:
    """Returns a ring without points that equal the one before."""
    return ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
