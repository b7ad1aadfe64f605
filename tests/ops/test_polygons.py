"""Polygons of masks: exact outlines, parts and holes, simplification without crossings, and rings joined by bridges."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.ops.polygon_joins import join_holes, join_parts
from htc_tf.ops.polygons import trace_polygons


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {**encoded, "counts": encoded["counts"].decode()}


def decode(rings, height, width):
    """The union of rings as pycocotools draws them, [height, width] bool."""
    polygons = [ring.ravel().tolist() for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def fill(parts, height, width):
    """The masks of Polygons without their holes, added up: [height, width] int."""
    total = np.zeros((height, width), int)
    for part in parts:
        total += decode([part.outer], height, width)
        for hole in part.holes:
            total -= decode([hole], height, width)
    return total


def area(ring):
    """Positive for a ring that is clockwise as seen on the image."""
    x, y = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def noise_masks(seed, count=6, most=24):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, most, 2).tolist()
    return [rng.random((height, width)) < share for share in np.linspace(0.1, 1.1, count)]


def rows(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


def test_a_ring_with_an_island():
    mask = rows("#####", "#...#", "#.#.#", "#...#", "#####")
    frame, island = trace_polygons([encode(mask)], 0)[0]
    np.testing.assert_array_equal(np.roll(frame.outer, -np.argmin(frame.outer.sum(axis=1)), axis=0)[0], [0, 0])
    assert {tuple(point) for point in frame.outer} == {(0, 0), (5, 0), (5, 5), (0, 5)} and area(frame.outer) == 25
    assert [{tuple(point) for point in hole} for hole in frame.holes] == [{(1, 1), (4, 1), (4, 4), (1, 4)}]
    assert area(frame.holes[0]) == -9
    assert {tuple(point) for point in island.outer} == {(2, 2), (3, 2), (3, 3), (2, 3)} and not island.holes


def test_pixels_that_touch_diagonally_are_parts():
    parts = trace_polygons([encode(rows("#.", ".#"))], 0)[0]
    assert [len(part.outer) for part in parts] == [4, 4]
    # A part that closes around a hole by a corner alone: the outer ring and the hole touch there.
    (part,) = trace_polygons([encode(rows("###", "#.#", "##.", "#.."))], 0)[0]
    assert len(part.holes) == 1 and area(part.holes[0]) == -1 and area(part.outer) == 9


@pytest.mark.parametrize("seed", range(12))
def test_exact_polygons_are_the_mask(seed):
    masks = noise_masks(seed)
    height, width = masks[0].shape
    traced = trace_polygons([encode(mask) for mask in masks], 0)
    for mask, parts in zip(masks, traced, strict=True):
        np.testing.assert_array_equal(fill(parts, height, width), mask)
        rings = [ring for part in parts for ring in (part.outer, *part.holes)]
        assert sum(map(area, rings)) == mask.sum()
        for part in parts:
            assert area(part.outer) > 0 and all(area(hole) < 0 for hole in part.holes)
        for ring in rings:
            assert len({tuple(point) for point in ring}) == len(ring)  # no ring returns to a point


def segments_cross(rings):
    """True if two segments have a point in common other than an end: a second way, one pair at a time."""
    segments = [(ring[i - 1], ring[i]) for ring in rings for i in range(len(ring))]

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    return any(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for place, (a, b) in enumerate(segments)
        for c, d in segments[:place]
    )


@pytest.mark.parametrize("tolerance", [0.5, 1, 2, 8])
def test_simplified_polygons_stay_valid_and_close(tolerance):
    y, x = np.mgrid[:60, :60]
    disk = np.hypot(y - 30, x - 30)
    masks = [disk < 25, (disk < 25) & (disk > 12), (disk < 25) & (abs(x - y) > 1), noise_masks(3)[4], disk < 3]
    masks += [np.hypot(y - 25, x % 20 - 10) < 9.6, (disk < 25) & (np.hypot(y - 30, x - 17.5) > 12.4), disk < 0.5]
    for mask in masks:
        height, width = mask.shape
        exact, parts = trace_polygons([encode(mask)], 0)[0], trace_polygons([encode(mask)], tolerance)[0]
        assert [len(part.holes) for part in parts] == [len(part.holes) for part in exact]
        rings = [ring for part in parts for ring in (part.outer, *part.holes)]
        assert not segments_cross(rings)
        assert all(area(part.outer) > 0 for part in parts)
        filled = fill(parts, height, width) > 0
        assert (filled & mask).sum() / (filled | mask).sum() >= 0.97
        assert sum(map(area, rings)) == pytest.approx(mask.sum(), rel=0.03)


def test_a_circle_needs_few_points():
    y, x = np.mgrid[:200, :200]
    mask = np.hypot(y - 100, x - 100) < 80
    exact, simple = (trace_polygons([encode(mask)], tolerance)[0][0].outer for tolerance in (0, 1))
    assert len(exact) > 300 and len(simple) < 64
    assert np.abs(np.hypot(*(simple - 100).T) - 80).max() < 1.5


def test_the_corners_of_a_rectangle_stay():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:31] = True
    (part,) = trace_polygons([encode(mask)], 1)[0]
    assert {tuple(point) for point in part.outer} == {(10, 5), (31, 5), (31, 20), (10, 20)}


def test_objects_do_not_depend_on_each_other():
    masks = noise_masks(5)
    together = trace_polygons([encode(mask) for mask in masks], 1)
    for mask, parts in zip(masks, together, strict=True):
        for part, alone in zip(parts, trace_polygons([encode(mask)], 1)[0], strict=True):
            np.testing.assert_array_equal(part.outer, alone.outer)
    assert trace_polygons([], 1) == [] and trace_polygons([encode(np.zeros((3, 4)))], 1) == [[]]


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_joined_rings_are_the_mask(seed, tolerance):
    masks = noise_masks(seed, most=40)
    height, width = masks[0].shape
    for parts in trace_polygons([encode(mask) for mask in masks], tolerance):
        if parts:
            expected = fill(parts, height, width) > 0
            np.testing.assert_array_equal(decode([join_holes(part) for part in parts], height, width), expected)
            np.testing.assert_array_equal(decode([join_parts(parts)], height, width), expected)


@pytest.mark.parametrize("tolerance", [-1, np.nan, np.inf, None, "1"])
def test_tolerances_out_of_range(tolerance):
    with pytest.raises(UserError, match=f"tolerance={tolerance}: give a number of pixels, 0 or more"):
        trace_polygons([encode(np.ones((3, 4)))], tolerance)


def test_a_huge_tolerance_is_no_more_than_the_image():
    mask = encode(np.hypot(*np.mgrid[-9:10, -9:10]) < 9)
    found, expected = (trace_polygons([mask], tolerance)[0][0].outer for tolerance in (1e300, 100))
    np.testing.assert_array_equal(found, expected)
