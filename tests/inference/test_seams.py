"""Seams: objects cut by tiles, on a seam, in the overlap only, beside each other, and larger than a tile."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.inference.results import ImageResult
from htc_tf.inference.seams import Seams, box_agreement, mask_agreement
from htc_tf.inference.tile_plan import Window
from htc_tf.ops.runs import place_runs

HEIGHT, WIDTH = 100, 260
LEFT, MIDDLE, RIGHT = (Window(0, left, 100, 100) for left in (0, 80, 160))  # overlaps of 20 pixels


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def see(window, *objects, masks=True):
    """Returns the ImageResult of a tile that sees objects (box in the image, score, class), clipped to the tile."""
    rows = []
    for box, score, label in objects:
        clipped = np.clip(np.float32(box).reshape(2, 2) - window[:2], 0, window[2:]).ravel()
        if (clipped[2:] > clipped[:2]).all():
            mask = np.zeros(window[2:], bool)
            top, left, bottom, right = clipped.astype(int)
            mask[top:bottom, left:right] = True
            rows.append((clipped, score, label, encode(mask)))
    boxes, scores, labels, runs = zip(*rows, strict=True) if rows else ((), (), (), ())
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageResult(boxes, np.float32(scores), np.int32(labels), list(runs) if masks else None)


def merge(*tiles, masks=True):
    """Merges tiles (Window, its objects) and returns [(box, score, class)], after a check of the masks."""
    seams = Seams(HEIGHT, WIDTH)
    for window, *objects in tiles:
        seams.add(window, see(window, *objects, masks=masks))
    result = seams.merge()
    if masks:
        for box, run in zip(result.boxes, result.masks, strict=True):
            x, y, width, height = coco_mask.toBbox(run)
            assert [y, x, y + height, x + width] == box.tolist() and run["size"] == [HEIGHT, WIDTH]
            assert coco_mask.area(run) == width * height
    else:
        assert result.masks is None
    return list(
        zip(
            result.boxes.tolist(),
            np.round(result.scores.astype(float), 3).tolist(),
            result.classes.tolist(),
            strict=True,
        )
    )


@pytest.fixture(params=[True, False], ids=["masks", "boxes"])
def masks(request):
    return request.param


def test_a_cut_piece_gives_way_to_the_whole_object(masks):
    box = [40, 60, 60, 95]  # whole in the left tile, cut by the middle one
    found = merge((LEFT, (box, 0.6, 1)), (MIDDLE, (box, 0.9, 1)), (RIGHT,), masks=masks)
    assert found == [(box, 0.6, 1)]
    # Whatever the tile takes the piece for.
    assert merge((LEFT, (box, 0.6, 1)), (MIDDLE, (box, 0.9, 2)), masks=masks) == [(box, 0.6, 1)]


def test_an_object_on_the_seam_is_united(masks):
    box = [40, 60, 60, 130]  # cut by both tiles; the best score counts
    found = merge((LEFT, (box, 0.3, 1)), (MIDDLE, (box, 0.8, 1)), masks=masks)
    assert found == [(box, 0.8, 1)]


def test_other_classes_are_other_objects(masks):
    box = [40, 60, 60, 130]
    found = merge((LEFT, (box, 0.3, 1)), (MIDDLE, (box, 0.8, 2)), masks=masks)
    assert found == [([40, 80, 60, 130], 0.8, 2), ([40, 60, 60, 100], 0.3, 1)]


def test_an_object_in_the_overlap_alone_is_found_once(masks):
    box = [40, 85, 60, 95]
    assert merge((LEFT, (box, 0.9, 1)), (MIDDLE, (box, 0.8, 1)), masks=masks) == [(box, 0.9, 1)]


def test_neighbors_that_touch_on_a_seam_stay_apart(masks):
    one, other = [40, 50, 60, 90], [40, 90, 60, 130]
    found = merge((LEFT, (one, 0.9, 1), (other, 0.4, 1)), (MIDDLE, (one, 0.3, 1), (other, 0.8, 1)), masks=masks)
    assert found == [(one, 0.9, 1), (other, 0.8, 1)]


def test_an_object_larger_than_a_tile_is_united_from_tile_to_tile(masks):
    box = [20, 10, 80, 250]
    tiles = [(window, (box, score, 1)) for window, score in ((LEFT, 0.7), (MIDDLE, 0.2), (RIGHT, 0.9))]
    assert merge(*tiles, masks=masks) == [(box, 0.9, 1)]


def test_two_objects_of_one_tile_stay_two(masks):
    """A poor detection that overlaps two objects does not join them."""
    one, other, poor = [20, 10, 50, 150], [50, 10, 80, 150], [20, 10, 80, 150]
    found = merge(
        (LEFT, (one, 0.9, 1), (other, 0.8, 1), (poor, 0.1, 1)), (MIDDLE, (one, 0.7, 1), (other, 0.6, 1)), masks=masks
    )
    assert found == [(one, 0.9, 1), (other, 0.8, 1), ([20, 10, 80, 100], 0.1, 1)]


def test_the_border_of_the_image_cuts_nothing(masks):
    box = [0, 0, 100, 90]  # touches three borders of the image
    assert merge((LEFT, (box, 0.5, 1)), (MIDDLE, (box, 0.9, 1)), masks=masks) == [(box, 0.5, 1)]


def test_rows_of_tiles():
    seams = Seams(180, 180)
    box = [40, 40, 140, 140]  # in four tiles, cut by each
    for window in (Window(top, left, 100, 100) for top in (0, 80) for left in (0, 80)):
        seams.add(window, see(window, (box, 0.5, 3)))
    result = seams.merge()
    assert result.boxes.tolist() == [box] and coco_mask.area(result.masks).tolist() == [100 * 100]


def test_one_tile_is_the_image():
    result = see(LEFT, ([1, 2, 3, 4], 0.5, 1), ([5, 6, 7, 8], 0.5, 1))
    seams = Seams(100, 100)
    seams.add(LEFT, result)
    assert seams.merge() is result


def test_no_objects():
    assert merge((LEFT,), (MIDDLE,), (RIGHT,)) == []


def test_an_object_inside_another_stays(masks):
    """Within one tile the suppression keeps both, and so it is in the overlap of two."""
    outer, inner = [30, 82, 70, 97], [45, 87, 55, 92]
    tiles = [(window, (outer, 0.9, 1), (inner, score, 1)) for window, score in ((LEFT, 0.7), (MIDDLE, 0.8))]
    assert merge(*tiles, masks=masks) == [(outer, 0.9, 1), (inner, 0.8, 1)]


def test_agreement():
    boxes, others = np.float32([[0, 0, 10, 10], [20, 20, 20, 30]]), np.float32([[0, 5, 10, 25], [50, 50, 60, 60]])
    whole, part = Window(0, 0, 100, 100), Window(0, 4, 100, 3)
    smaller, larger = np.ones([2, 2], bool), np.zeros([2, 2], bool)
    np.testing.assert_allclose(box_agreement(boxes, others, whole, smaller), [[0.5, 0], [0, 0]])
    np.testing.assert_allclose(box_agreement(boxes, others, whole, larger), [[0.25, 0], [0, 0]])
    np.testing.assert_allclose(box_agreement(boxes, others, part, smaller)[0, 0], 1)  # [4, 7) against [5, 7)
    np.testing.assert_allclose(box_agreement(boxes, others, part, larger)[0, 0], 2 / 3)
    left, right = np.zeros([2, 20, 20], bool)
    left[2:10, 2:10] = right[2:10, 6:18] = True
    runs = [place_runs(encode(mask), 0, 0, 20) for mask in (left, right)]
    assert mask_agreement(*runs, Window(0, 0, 20, 20), 20, True) == 0.5
    assert mask_agreement(*runs, Window(0, 0, 20, 20), 20, False) == pytest.approx(1 / 3)
    assert mask_agreement(*runs, Window(0, 0, 20, 8), 20, True) == 1
    assert mask_agreement(*runs, Window(0, 15, 20, 5), 20, True) == 0


def test_the_order_of_tiles_does_not_matter():
    """Not even among equal scores, and where several pieces of one tile agree with one of another."""
    windows = [Window(top, left, 100, 100) for top in (0, 80) for left in (0, 80)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = rng.integers(0, 170, (8, 2))
        boxes = np.hstack([start, np.minimum(start + rng.integers(5, 120, (8, 2)), 180)])
        results = [see(window, *((box, rng.choice([0.5, 0.7]), 1) for box in boxes)) for window in windows]
        merged = []
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            seams = Seams(180, 180)
            for index in order:
                seams.add(windows[index], results[index])
            merged.append(seams.merge())
        for one, other in zip(*merged, strict=True):
            np.testing.assert_array_equal(one, other)
