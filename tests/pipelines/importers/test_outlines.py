"""Outlines of rectangles and ellipses."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

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


def test_the_run_lengths_of_a_part_are_those_of_the_whole_image():
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
        assert found == outlines.encode(whole)
