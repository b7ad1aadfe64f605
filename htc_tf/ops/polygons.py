"""Outlines of masks as polygons with holes, along the borders of pixels, in NumPy.

The area of a mask's exact polygons is its number of pixels, and pycocotools draws the mask from them. All masks of an
image are traced at once, side by side, from their runs down the columns; nothing is decoded.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from htc_tf.errors import UserError
from htc_tf.ops.polygon_simplification import close_rings, signed_areas, simplify_rings
from htc_tf.ops.runs import place_runs

TOLERANCE = 1.0  # pixels, by default


class Polygon(NamedTuple):
    """One part of a mask.

    Attributes:
        outer: [p, 2] float64, its corners x, y, clockwise as seen on the image. A pixel i covers [i, i + 1].
        holes: A list of such arrays, counterclockwise.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


class Edges(NamedTuple):
    """The n horizontal edges of all outlines; on the image, the mask is to the right of their direction.

    Attributes:
        points: [2 n, 2] int64, the x, y of their starts, then of their ends.
        following: [n], index of the edge whose start is below or above the end of this one.
        touching: [2 n] bool, for points where two pixels of a mask touch diagonally.
        above: [n], index of the edge above this one, at the other end of the run of pixels that it borders; for edges
            with the mask above.
    """

    points: np.ndarray
    following: np.ndarray
    touching: np.ndarray
    above: np.ndarray


def trace_polygons(run_lengths: list[dict[str, Any]], tolerance: float = TOLERANCE) -> list[list[Polygon]]:
    """Traces the outlines of masks. Pixels that touch diagonally are in different parts.

    Args:
        run_lengths: n COCO run lengths {"size": [height, width], "counts": str} of one size.
        tolerance: Pixels by which an outline may be simplified, see `simplify_rings`; 0 for the exact outline.
    Returns:
        n lists of Polygons, the parts of each mask, the largest first; an empty list for an empty mask.
    Raises:
        UserError: The tolerance is no finite number, or negative.
    """
    if not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
        raise UserError(f"tolerance={tolerance}: give a number of pixels, 0 or more")
    polygons = [[] for _ in run_lengths]
    if not run_lengths:
        return polygons
    height, width = run_lengths[0]["size"]
    stride = width + 1  # masks side by side, one column apart, do not touch
    runs = np.concatenate([place_runs(mask, 0, stride * i, height) for i, mask in enumerate(run_lengths)])
    if not len(runs):
        return polygons
    edges = find_edges(runs, height)
    order, lengths = walk_rings(edges)
    points, touching = edges.points[order], edges.touching[order]
    starts = np.cumsum(lengths) - lengths
    areas = signed_areas(*close_rings(points, starts))
    parents = find_parents(edges, order, lengths, areas < 0)
    if tolerance:
        # No outline can differ by more than the image's sides.
        points, starts = simplify_rings(points, starts, touching, min(tolerance, height + width))
    rings = np.split(points.astype(np.float64), starts[1:])
    outer = np.flatnonzero(areas > 0)
    found = {}
    for ring in outer[np.argsort(-areas[outer], kind="stable")].tolist():
        mask = int(rings[ring][0, 0]) // stride
        found[ring] = Polygon(rings[ring] - (mask * stride, 0), [])
        polygons[mask].append(found[ring])
    for ring in np.flatnonzero(areas < 0).tolist():
        offset = int(rings[ring][0, 0]) // stride * stride
        found[int(parents[ring])].holes.append(rings[ring] - (offset, 0))
    return polygons


def find_edges(runs: np.ndarray, height: int) -> Edges:
    """Finds the horizontal edges of outlines.

    Args:
        runs: [k, 2] int64, the runs of pixels down the columns, as in `ops.runs`.
        height: int, of the columns.
    Returns:
        Edges.
    """
    x = np.repeat(runs[:, 0] // height, 2)  # [u], the column of each pixel's border between mask and background
    y = runs.ravel() - x * height
    top = np.tile([True, False], len(runs))  # the mask is below the border
    # Borders next to each other at one height form an edge, whose ends are where a border has no neighbor.
    key = (x * (height + 1) + y) * 2 + top
    step = 2 * (height + 1)
    is_left, is_right = ~np.isin(key, key + step, assume_unique=True), ~np.isin(key + step, key, assume_unique=True)
    along = np.lexsort((x, top, y))  # the left ends and the right ends of edges in the same order
    left, right = along[is_left[along]], along[is_right[along]]  # [n], the first and the last border of an edge
    edge = np.empty_like(along)
    edge[along] = np.cumsum(is_left[along]) - 1  # [u], the edge of each border
    left_points = np.stack([x[left], y[left]], axis=1)
    right_points = np.stack([x[right] + 1, y[right]], axis=1)
    top = top[left]  # [n]
    forward = np.where(top[:, None], left_points, right_points), np.where(top[:, None], right_points, left_points)
    points = np.concatenate(forward)
    # Down a line between two columns, the ends pair up to vertical edges. At a point with four ends, the order of those
    # with the mask above before those with the mask below joins what belongs to one pixel.
    count = len(left)
    below = np.tile(top, 2)
    down = np.lexsort((below, points[:, 1], points[:, 0]))
    rank = np.empty_like(down)
    rank[down] = np.arange(2 * count)
    following = down[rank[count:] ^ 1]  # the partner of an edge's end is the start of the next edge
    same = (points[down[1:]] == points[down[:-1]]).all(axis=1)
    touching = np.zeros(2 * count, bool)
    touching[down[1:][same]] = touching[down[:-1][same]] = True
    # In a column, the border before one with the mask above is at the other end of the run.
    return Edges(points, following, touching, edge[left - 1])


def walk_rings(edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """Orders the points of edges by rings. A ring that returns to a point is cut there in two.

    Returns:
        order: [2 n], indices of points, ring after ring.
        lengths: [r], number of points of each ring.
    """
    following, touching = edges.following.tolist(), edges.touching.tolist()
    places = list(map(tuple, edges.points.tolist()))
    count = len(following)
    left = [True] * count
    rings = []
    for first in range(count):
        path, seen, edge = [], {}, first  # seen: the touching points in the path
        while left[edge]:
            left[edge] = False
            for point in (edge, edge + count):
                if touching[point]:
                    place = places[point]
                    if place in seen:
                        loop = path[seen[place] :]
                        del path[seen[place] :]
                        rings.append(loop)
                        for other in loop:
                            seen.pop(places[other], None)
                    seen[place] = len(path)
                path.append(point)
            edge = following[edge]
        if path:
            rings.append(path)
    return np.array([point for ring in rings for point in ring]), np.array([len(ring) for ring in rings])


def find_parents(edges: Edges, order: np.ndarray, lengths: np.ndarray, is_hole: np.ndarray) -> np.ndarray:
    """Returns the outer ring [r] around each hole; for an outer ring, itself.

    The run of pixels above the highest edge of a hole begins at an edge of another ring of the same part, which is
    higher: it is the outer ring, or a hole whose own highest edge leads on.
    """
    count = len(edges.following)
    ring = np.empty(2 * count, np.int64)
    ring[order] = np.repeat(np.arange(len(lengths)), lengths)
    ring = ring[:count]  # of edges
    by_height = np.lexsort((edges.points[:count, 1], ring))
    highest = by_height[np.searchsorted(ring[by_height], np.arange(len(lengths)))]
    parents = np.where(is_hole, ring[edges.above[highest]], np.arange(len(lengths)))
    while not np.array_equal(parents, parents[parents]):
        parents = parents[parents]
    return parents
