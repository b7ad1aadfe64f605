"""Simplification of masks' outlines by Douglas and Peucker, for many rings at once, without crossings, in NumPy.

Source: Douglas and Peucker, Algorithms for the reduction of the number of points required to represent a digitized line
or its caricature, 1973.
"""

import numpy as np

MAX_CHANGE = 0.015  # of a ring's area; a small or thin object keeps more points than the tolerance alone would
CUT = 0.5**1.5  # pixels between a corner of a pixel and the line between the middles of its two sides
STEP, MIN_TOLERANCE = 0.7, 0.1  # the factor between tolerances that are tried, and the last of them, in pixels
MAX_PAIRS = 2**20  # segments that are compared at once


def simplify_rings(
    points: np.ndarray, starts: np.ndarray, touching: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces outlines along the borders of pixels by polygons with fewer points.

    First the stairs of slanted lines are cut, so that the polygon is neither larger nor smaller than the mask; then
    points are left out. A ring is within `tolerance` of the former one, and the area between them is at most MAX_CHANGE
    of its own, or it stays as it is. No segments cross.

    Args:
        points: [p, 2] int64, x, y of the corners, ring after ring. Rings of different masks have no x in common.
        starts: [r], index of each ring's first point.
        touching: [p] bool, points where rings touch.
        tolerance: float, in pixels.
    Returns:
        (points [p', 2] float64, starts [r]) of the simplified rings.
    """
    count = len(starts)
    exact, exact_rings = close_rings(2 * points, starts)  # in half pixels, so that all points are whole numbers
    cut, cut_rings = close_rings(*cut_stairs(points, starts, touching))
    fixed = np.append(True, cut_rings[1:] != cut_rings[:-1])
    first = np.flatnonzero(fixed)
    # Two points of a ring are kept in any case: the first one and the farthest from it.
    fixed[first_maxima(((cut - cut[first][cut_rings]) ** 2).sum(axis=1), first)] = True
    fixed[np.append(first[1:], len(cut)) - 1] = True
    areas = signed_areas(exact, exact_rings)
    change, limit = np.abs(signed_areas(cut, cut_rings) - areas), MAX_CHANGE * np.abs(areas)
    keep, todo = np.ones(len(cut), bool), change <= limit
    simplified = todo.copy()
    tolerance -= CUT
    while todo.any() and tolerance >= MIN_TOLERANCE:
        inside = todo[cut_rings]
        keep[inside] = select_points(cut[inside], fixed[inside], cut_rings[inside], 2 * tolerance)
        todo &= change + area_between(cut, keep, cut_rings, count) > limit
        tolerance *= STEP
    simplified &= ~todo
    stays = ~simplified[exact_rings]
    inside = simplified[cut_rings]
    rings = np.concatenate([exact_rings[stays], cut_rings[inside]])
    order = np.argsort(rings, kind="stable")
    closed = np.concatenate([exact[stays], cut[inside]])[order]
    keep = np.concatenate([np.ones(stays.sum(), bool), keep[inside]])[order]
    rings = rings[order]
    remove_crossings(closed, keep, rings)
    keep &= np.append(rings[1:] == rings[:-1], False)  # without the closing points
    lengths = np.bincount(rings[keep], minlength=count)
    return closed[keep] / 2, np.cumsum(lengths) - lengths


def cut_stairs(points: np.ndarray, starts: np.ndarray, touching: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the corners of stairs to the middles of their steps.

    On a straight slanted line, either the horizontal or the vertical steps are one pixel long. A corner between two
    longer sides is one of the object and stays.

    Returns:
        (points [p', 2] int64, in half pixels, starts [r]).
    """
    after = np.arange(1, len(points) + 1)
    after[np.append(starts[1:], len(points)) - 1] = starts
    before = np.empty_like(after)
    before[after] = np.arange(len(points))
    side = points[after] - points
    length = np.abs(side).sum(axis=1)
    direction = side // length[:, None]
    stays = (length > 1) & (length[before] > 1) & ~touching
    pair = np.stack([2 * points - direction[before], 2 * points + direction], axis=1)  # [p, 2, 2]
    pair[stays] = 2 * points[stays][:, None]
    # A corner that stays gives one point; the middle of a step of one pixel is the same from both of its corners.
    use = np.stack([~stays, np.ones(len(points), bool)], axis=1)
    use[:, 0] &= length[before] > 1
    lengths = np.add.reduceat(use.sum(axis=1), starts)
    return pair[use], np.cumsum(lengths) - lengths


def close_rings(points: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (points with each ring's first one again at its end [p + r, 2], the ring of each point [p + r])."""
    ends = np.append(starts[1:], len(points))
    return np.insert(points, ends, points[starts], axis=0), np.repeat(np.arange(len(starts)), ends - starts + 1)


def remove_crossings(points: np.ndarray, keep: np.ndarray, rings: np.ndarray) -> None:
    """Keeps more points, in place, until no segments between kept points cross."""
    while len(crossing := find_crossings(points, keep, rings)):
        restored = np.isin(np.cumsum(keep) - 1, crossing)  # the points after a crossing segment's begin
        if keep[restored].all():
            return
        keep |= restored


def signed_areas(points: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Returns the area [r] of each closed ring, positive if it is clockwise as seen on the image."""
    x, y = points.T
    twice = (x[:-1] * y[1:] - x[1:] * y[:-1]) * (rings[1:] == rings[:-1])
    return np.bincount(rings[:-1], twice, rings[-1] + 1) / 2


def select_points(points: np.ndarray, fixed: np.ndarray, rings: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the points to keep, [p] bool: in each span between kept points, the farthest one if it is too far."""
    keep = fixed.copy()
    kept = np.flatnonzero(keep)
    spans = np.stack([kept[:-1], kept[1:]], axis=1)  # [s, 2]
    spans = spans[rings[spans[:, 0]] == rings[spans[:, 1]]]
    while len(spans := spans[spans[:, 1] - spans[:, 0] > 1]):
        lengths = spans[:, 1] - spans[:, 0] - 1
        offsets = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(spans)), lengths)
        inner = np.arange(len(owner)) + (spans[:, 0] + 1 - offsets)[owner]
        across, along, length = to_chord(points[inner], *points[spans.T][:, owner])
        beyond = np.maximum(np.maximum(-along, along - length), 0)
        squared = across**2 + beyond**2
        far = np.maximum.reduceat(squared, offsets) > tolerance**2
        farthest = inner[first_maxima(squared, offsets)][far]
        keep[farthest] = True
        begin, end = spans[far].T
        spans = np.concatenate([np.stack([begin, farthest], axis=1), np.stack([farthest, end], axis=1)])
    return keep


def area_between(points: np.ndarray, keep: np.ndarray, rings: np.ndarray, count: int) -> np.ndarray:
    """Returns the area [count] between each ring and its kept points, or a little more."""
    kept = np.flatnonzero(keep)
    segment = np.minimum(np.cumsum(keep) - 1, len(kept) - 2)[:-1]  # of each side i, i + 1 of the former ring
    begin, end = points[kept[segment]], points[kept[segment + 1]]
    across, along, _ = to_chord(points[:-1], begin, end)
    across_after, along_after, _ = to_chord(points[1:], begin, end)
    area = np.abs(along_after - along) * (np.abs(across) + np.abs(across_after)) / 2
    same = rings[:-1] == rings[1:]
    return np.bincount(rings[:-1][same], area[same], count)


def to_chord(points: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (distance from the line, distance along it, length of the chord) of points, for chords between points."""
    chord, offset = end - begin, points - begin
    length = np.maximum(np.hypot(chord[:, 0], chord[:, 1]), 1e-9)
    across = (chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0]) / length
    return across, (chord * offset).sum(axis=1) / length, length


def first_maxima(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns the index of the first maximum of each part of `values`; the parts begin at `offsets`."""
    lengths = np.diff(offsets, append=len(values))
    hits = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, offsets), lengths))
    return hits[np.searchsorted(hits, offsets)]


def find_crossings(points: np.ndarray, keep: np.ndarray, rings: np.ndarray) -> np.ndarray:
    """Returns the numbers of the segments between kept points that cross or touch others, but for common ends."""
    kept = np.flatnonzero(keep)
    begin, end = points[kept[:-1]], points[kept[1:]]
    numbers = np.flatnonzero(rings[kept[:-1]] == rings[kept[1:]])
    low = np.minimum(begin, end)[:, 0]
    numbers = numbers[np.argsort(low[numbers], kind="stable")]
    begin, end = begin[numbers], end[numbers]
    low, high = np.minimum(begin, end), np.maximum(begin, end)
    # Sorted by their left ends, segment i may meet those from i + 1 to the last one that begins before its right end.
    stop = np.searchsorted(low[:, 0], high[:, 0], side="right")
    counts = np.maximum(stop - np.arange(len(stop)) - 1, 0)
    ends = np.cumsum(counts)
    found = np.zeros(len(numbers), bool)
    place = 0
    while place < len(counts):
        # As many segments as have MAX_PAIRS partners; at least one.
        done = ends[place - 1] if place else 0
        upto = max(int(np.searchsorted(ends, done + MAX_PAIRS, side="right")), place + 1)
        one = np.repeat(np.arange(place, upto), counts[place:upto])
        other = np.arange(len(one)) + (np.arange(place, upto) + 1 - (ends - counts - done)[place:upto])[one - place]
        near = (low[one, 1] <= high[other, 1]) & (low[other, 1] <= high[one, 1])
        one, other = one[near], other[near]
        crossed = cross(begin[one], end[one], begin[other], end[other])
        found[one[crossed]] = found[other[crossed]] = True
        place = upto
    return np.sort(numbers[found])


def cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Returns True where the segments a, b and c, d, [m, 2] int64 each, have a point in common other than an end."""
    c_side, d_side = side(a, b, c), side(a, b, d)
    a_side, b_side = side(c, d, a), side(c, d, b)
    meet = (c_side * d_side <= 0) & (a_side * b_side <= 0)
    joined = equal(a, c) | equal(a, d) | equal(b, c) | equal(b, d)
    # On one line, they overlap unless they only share an end: then the other ends are on opposite sides of it.
    one_line = (c_side == 0) & (d_side == 0)
    low, high = np.maximum(np.minimum(a, b), np.minimum(c, d)), np.minimum(np.maximum(a, b), np.maximum(c, d))
    overlap = (low <= high).all(axis=1) & (low < high).any(axis=1)
    return np.where(one_line, overlap | ((low <= high).all(axis=1) & ~joined), meet & ~joined)


def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns the sign of the side of the line a, b on which c is."""
    return np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))


def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b).all(axis=1)
