"""Overviews of large images: means of cells from windows of any plan, and masks sampled to their size."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.inference import overview
from htc_tf.inference.overview import Overview, reduction, shrink_mask
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from htc_tf.inference.tile_plan import plan_tiles


@pytest.fixture(autouse=True)
def small_overviews(monkeypatch):
    monkeypatch.setattr(overview, "MAX_PIXELS", 100)


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def test_factors():
    assert [reduction(*size) for size in [(10, 10), (11, 10), (20, 20), (21, 20), (30, 30)]] == [1, 2, 2, 3, 3]
    assert reduction(1, 4 * 10**9) == 4 * 10**9 // overview.MAX_SIDE  # not 1 x 600,000,000 pixels


@pytest.mark.parametrize(("tile", "overlap"), [(100, 0), (20, 0.2), (12, 0.5)])
def test_cells_are_means_whatever_the_windows(tile, overlap):
    image = np.random.default_rng(0).integers(0, 256, [43, 35, 3], np.uint8)
    made = Overview(43, 35)
    assert made.factor == 4
    for top, left, height, width in plan_tiles(43, 35, tile, overlap):
        made.add(image[top : top + height, left : left + width], top, left)
    expected = [
        [image[row : row + 4, column : column + 4].reshape(-1, 3).mean(axis=0) for column in range(0, 35, 4)]
        for row in range(0, 43, 4)
    ]
    np.testing.assert_array_equal(made.image, np.uint8(expected))


def test_masks_are_sampled_in_the_middle_of_cells():
    rng = np.random.default_rng(1)
    block = np.zeros([43, 35], bool)
    block[10:30, 7:21] = True
    for mask in [block, ~block, rng.random([43, 35]) < 0.5, np.zeros([43, 35], bool), np.ones([43, 35], bool)]:
        rows, columns = (np.minimum(np.arange(0, side, 4) + 2, side - 1) for side in (43, 35))
        assert shrink_mask(encode(mask), 4) == encode(mask[np.ix_(rows, columns)])


def test_objects_are_drawn_at_their_place_in_the_overview():
    large, masks = np.zeros([400, 400, 3], np.uint8), np.zeros([2, 400, 400], bool)
    masks[0, 200:320, 40:120] = masks[1, :40, :40] = True
    boxes = np.float32([[200, 40, 320, 120], [0, 0, 40, 40]])
    result = ImageResult(boxes, np.float32([0.9, 0.1]), np.int32([0, 0]), [encode(mask) for mask in masks])
    made = Overview(400, 400)
    made.add(large, 0, 0)
    prediction = Prediction(made.image, result, [{"id": 1, "name": ""}], (400, 400))
    assert made.image.shape == (10, 10, 3) and prediction.size == (400, 400)
    drawn = prediction.draw(threshold=0.5)  # enlarged to 640 pixels: 64 for a cell
    assert drawn[6 * 64, 2 * 64].any() and not drawn[: 4 * 64].any() and not drawn[:, 4 * 64 :].any()
    np.testing.assert_array_equal(prediction.above(0.5).masks, masks[:1])
