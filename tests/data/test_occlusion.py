"""Boxes around what is left of an object: exact where nothing is hidden, within a cell of the pixels where it is."""

import numpy as np
import tensorflow as tf
from pycocotools import mask as coco_mask

from htc_tf.data.mask_crops import crop_masks
from htc_tf.data.occlusion import find_visible


def find(boxes, masks, frames, size):
    arguments = (np.float32(boxes), np.uint8(masks), np.float32(frames), np.int32(size))
    boxes, seen = find_visible(*(tf.constant(values) for values in arguments))
    return boxes.numpy(), seen.numpy()


# A hook in cells of one pixel, in a frame that begins at (10, 20): a bar over cells (1, 1) ... (1, 4), and a stem below
# its left end.
HOOK = np.zeros((6, 6), np.uint8)
HOOK[1, 1:5] = HOOK[1:5, 1] = 255
FRAME = [10, 20, 16, 26]
BOX = [11, 21, 15, 25]


def test_what_is_whole_keeps_its_box():
    boxes, seen = find([[11.3, 20.8, 15.2, 25]], [HOOK], [FRAME], (100, 100))
    np.testing.assert_array_equal(boxes, np.float32([[11.3, 20.8, 15.2, 25]]))
    assert seen.all()


def test_an_edge_cuts_a_box_and_what_is_left_of_the_mask_draws_in_the_other_sides():
    boxes, seen = find([BOX] * 3, [HOOK] * 3, [FRAME] * 3, (100, 23))
    np.testing.assert_array_equal(boxes, [[11, 21, 15, 23]] * 3)
    # Six pixels higher up the bar lies in row 5, and what is below it is cut off.
    boxes, seen = find(np.subtract([BOX], [[6, 0, 6, 0]]), [HOOK], np.subtract([FRAME], [[6, 0, 6, 0]]), (6, 100))
    np.testing.assert_array_equal(boxes, [[5, 21, 6, 25]])
    # Three pixels further to the left, the bar's end is all that is left, and the box's lower side follows: 12, not 15.
    boxes, seen = find([[11, -2, 15, 2]], [HOOK], [[10, -3, 16, 3]], (100, 100))
    np.testing.assert_array_equal(boxes, [[11, 0, 12, 2]])
    assert seen.all()


def test_hidden_cells_draw_in_a_side():
    mask = HOOK.copy()
    mask[1, 3:] = 0
    boxes, _ = find([BOX], [mask], [FRAME], (100, 100))
    np.testing.assert_array_equal(boxes, [[11, 21, 15, 22 + 1]])
    mask[:] = 0
    assert find([BOX, BOX], [mask, HOOK], [FRAME] * 2, (100, 100))[1].tolist() == [False, True]


def test_out_of_the_image():
    _, seen = find([[-9, 3, -1, 8], [2, 3, 4, 5]], np.stack([HOOK, HOOK]), [[-10, 2, 0, 9], [1, 2, 5, 6]], (50, 50))
    assert seen.tolist() == [False, True]


def test_without_a_mask_the_box_is_all_there_is():
    empty = np.zeros((2, 6, 6))
    boxes, seen = find([[-2, 3, 4, 8], [60, 3, 70, 8]], empty, np.zeros((2, 4)), (50, 50))
    np.testing.assert_array_equal(boxes[0], [0, 3, 4, 8])
    assert seen.tolist() == [True, False]
    assert find(np.zeros((0, 4)), np.zeros((0, 6, 6)), np.zeros((0, 4)), (5, 5))[0].shape == (0, 4)


def test_boxes_of_cut_blobs_are_those_of_their_pixels():
    ys, xs = np.mgrid[:150, :200] + 0.5
    blob = ((ys - 70) / 50) ** 2 + ((xs - 100) / 70 - (ys - 70) / 90) ** 2 < 1  # leans, so that a cut draws sides in
    mask, frame = crop_masks([coco_mask.encode(np.asfortranarray(blob, np.uint8))["counts"]], 150, 200, 112)
    rows, columns = np.nonzero(blob)
    box = np.float32([[rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]])
    cell = (frame[0, 2:] - frame[0, :2]).max() / 112
    for top, left, bottom, right in [(0, 0, 60, 200), (90, 0, 150, 200), (30, 40, 80, 110), (100, 120, 140, 200)]:
        shift = np.float32([top, left, top, left])
        found, _ = find(box - shift, mask, frame - shift, (bottom - top, right - left))
        rows, columns = np.nonzero(blob[top:bottom, left:right])
        exact = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(found[0], exact, atol=1.5 * cell + 0.5)
