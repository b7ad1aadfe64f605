"""Outlines of rectangles and ellipses, and run lengths of masks, whose memory is bounded."""

import math
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipelines.checks import Rejected
from pipelines.importers import outlines


def draw(polygon, height, width):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], height, width)))


def test_a_rectangle_turns_clockwise():
    corners = outlines.rectangle(10, 20, 30, 24)
    assert corners == [10, 20, 30, 20, 30, 24, 10, 24]
    assert outlines.rotate(corners, 0, 10, 20) == corners
    # About its top left corner, by a quarter turn: the right end of the top side is now below that corner.
    turned = outlines.rotate(corners, math.pi / 2, 10, 20)
    np.testing.assert_allclose(turned, [10, 20, 10, 40, 6, 40, 6, 20], atol=1e-12)


@pytest.mark.parametrize("degrees", [0, 30, 145])
def test_an_ellipse_covers_the_pixels_of_its_equation(degrees):
    x, y, a, b, height, width = 52.5, 40.5, 40.0, 12.0, 90, 110
    angle = math.radians(degrees)
    polygon = outlines.ellipse(x, y, a, b, angle)
    np.testing.assert_allclose(outlines.rotate(outlines.ellipse(x, y, a, b), angle, x, y), polygon, atol=1e-9)
    mask = draw(polygon, height, width)
    rows, columns = np.mgrid[:height, :width] + 0.5
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = (columns - x) * cos + (rows - y) * sin, (rows - y) * cos - (columns - x) * sin
    inside = (along / a) ** 2 + (across / b) ** 2 <= 1
    assert (mask & inside).sum() / (mask | inside).sum() > 0.95
    assert abs(mask.sum() / (math.pi * a * b) - 1) < 0.05


@pytest.mark.parametrize("strip", [1, 7, 50, outlines.STRIP])
def test_the_run_lengths_of_a_part_are_those_of_the_whole_image(monkeypatch, strip):
    monkeypatch.setattr(outlines, "STRIP", strip)
    rng = np.random.default_rng(0)
    for share in [0.0, 1.0, *rng.uniform(0, 1, 100)]:
        height, width = rng.integers(1, 20, 2)
        top, left = rng.integers(0, height), rng.integers(0, width)
        high, wide = rng.integers(1, height - top + 1), rng.integers(1, width - left + 1)
        if share > 0.8:
            top, high = 0, height  # runs that go on in the next column
        whole = np.zeros((height, width), np.uint8)
        part = rng.random((high, wide)) < share
        whole[top : top + high, left : left + wide] = part
        found = outlines.encode_crop(part, int(top), int(left), int(height), int(width))
        expected = coco_mask.encode(np.asfortranarray(whole))
        assert found == {"size": [height, width], "counts": expected["counts"].decode()} == outlines.encode(whole)


def test_a_mask_of_too_many_runs_is_refused_in_little_memory():
    mask = np.zeros((3000, 3000), np.uint8)
    mask[::2] = 1  # 4.5 million runs
    tracemalloc.start()
    try:
        with pytest.raises(Rejected, match=r"more than 2,000,000 runs of pixels"):
            outlines.encode(mask)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_mask_is_that_of_its_runs():
    mask = np.zeros((4000, 4000), bool)
    mask[::20] = True  # 800,000 runs
    tracemalloc.start()
    try:
        found = outlines.encode_crop(mask, 0, 0, 4000, 4000)
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()
    assert coco_mask.area(found) == mask.sum()
