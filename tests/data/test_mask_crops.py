"""Mask crops agree with pycocotools and with RoIAlign on whole bitmaps; boxes around visible parts of objects."""

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from htc_tf.data import mask_crops
from htc_tf.ops import masks as mask_ops
from htc_tf.ops.rle_decoding import decode_edges


def encode(bitmap):
    return coco_mask.encode(np.asfortranarray(bitmap, np.uint8))["counts"]


def test_runs_are_decoded_as_pycocotools_does():
    generator = np.random.default_rng(0)
    for density in (0, 0.02, 0.5, 0.98, 1):
        height, width = generator.integers(1, 60, 2)
        bitmaps = generator.random((4, height, width)) < density
        rles = [encode(bitmap) for bitmap in bitmaps]
        edges = decode_edges(rles, height * width)
        whole = np.tile([0, 0, width, height], (4, 1))
        for bitmap, drawn in zip(bitmaps, mask_crops._decode_boxes(*edges, whole, height), strict=True):
            np.testing.assert_array_equal(drawn.T, bitmap * 255)
        if min(height, width) > 2:
            inner = np.tile([1, 1, width - 2, height - 2], (4, 1))
            for bitmap, drawn in zip(bitmaps, mask_crops._decode_boxes(*edges, inner, height), strict=True):
                np.testing.assert_array_equal(drawn.T, bitmap[1:-1, 1:-1] * 255)


def test_a_rectangle():
    bitmap = np.zeros((40, 60), np.uint8)
    bitmap[10:20, 30:45] = 1
    masks, crop_boxes = mask_crops.crop_masks([encode(bitmap)], 40, 60, 8)
    # Margins of one and a half cells: 10 and 15 pixels cover five cells, of 2 and 3 pixels.
    np.testing.assert_array_equal(crop_boxes, [[7, 25.5, 23, 49.5]])
    # The object begins and ends at the center of the second cell from the border.
    profile = np.array([0, 0.5, 1, 1, 1, 1, 0.5, 0])
    np.testing.assert_allclose(masks[0], 255 * profile[:, None] * profile, atol=1)


def test_small_objects_are_interpolated():
    bitmap = np.zeros((9, 9), np.uint8)
    bitmap[4, 4] = 1
    masks, crop_boxes = mask_crops.crop_masks([encode(bitmap)], 9, 9, 12)
    np.testing.assert_array_equal(crop_boxes, [[3, 3, 6, 6]])
    half = np.array([0, 0, 0.125, 0.375, 0.625, 0.875])
    profile = np.concatenate([half, half[::-1]])
    np.testing.assert_allclose(masks[0], 255 * profile[:, None] * profile, atol=2)


def test_no_masks_and_empty_masks():
    masks, crop_boxes = mask_crops.crop_masks([], 20, 30, 16)
    assert masks.shape == (0, 16, 16) and crop_boxes.shape == (0, 4)
    bitmap = np.eye(20, 30)
    masks, crop_boxes = mask_crops.crop_masks([b"", encode(np.zeros((20, 30))), encode(bitmap), b""], 20, 30, 16)
    assert [mask.any() for mask in masks] == [False, False, True, False]
    np.testing.assert_array_equal(crop_boxes[:2], 0)
    assert mask_crops.crop_masks([b"", b""], 20, 30, 16)[0].shape == (2, 16, 16)


@pytest.mark.parametrize("counts", [b"n" * 30 + b"1", b"o" * 12 + b"1", b"0l", b"T51", b"\xff", b"\0"])
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts):
    """pycocotools would read and write beyond its memory, or find no pixel."""
    with pytest.raises(ValueError, match="of the image's 600 pixels"):
        mask_crops.crop_masks([encode(np.eye(20, 30)), counts, b""], 20, 30, 16)


def test_the_outermost_cells_are_empty_even_at_the_image_border():
    full = np.ones((33, 57), np.uint8)
    for cells in (8, 28, 112):
        (mask,), (crop_box,) = mask_crops.crop_masks([encode(full)], 33, 57, cells)
        inner = mask[1:-1, 1:-1]
        assert inner.max() == 255 and mask.sum(dtype=int) == inner.sum(dtype=int)
        assert crop_box[0] < 0 and crop_box[2] > 33


def test_masks_do_not_affect_each_other():
    """All masks of an image are sampled from one canvas."""
    full = encode(np.ones((300, 400)))
    dot = np.zeros((300, 400), np.uint8)
    dot[150:153, 200:204] = 1
    rles = [full, encode(dot), full, encode(dot)]
    together = mask_crops.crop_masks(rles, 300, 400, 28)
    for index, rle in enumerate(rles):
        (mask,), (crop_box,) = mask_crops.crop_masks([rle], 300, 400, 28)
        np.testing.assert_array_equal(together[1][index], crop_box)
        np.testing.assert_allclose(together[0][index], mask, atol=1)


def test_masks_are_decoded_in_groups_of_limited_memory(monkeypatch):
    blobs = [np.arange(60 * 80).reshape(60, 80) % number < number // 3 for number in (7, 80, 800, 4800)]
    rles = [encode(blobs[0]), b"", encode(np.zeros((60, 80))), *map(encode, blobs)]
    expected = mask_crops.crop_masks(rles, 60, 80, 28)
    monkeypatch.setattr(mask_crops, "MAX_DECODED", 60 * 100)
    masks, crop_boxes = mask_crops.crop_masks(rles, 60, 80, 28)
    np.testing.assert_allclose(masks.astype(int), expected[0], atol=1)
    np.testing.assert_array_equal(crop_boxes, expected[1])


def test_mask_targets_of_cells_match_the_whole_bitmap():
    ys, xs = np.mgrid[:150, :200] + 0.5
    blobs = [
        ((ys - 70) / 50) ** 2 + ((xs - 100) / 70) ** 2 < 1,
        ((ys - 30) / 9) ** 2 + ((xs - 40) / 14) ** 2 < 1,
        np.abs(ys - 100) + np.abs(xs - 60) < 35,
    ]
    cells, crop_boxes = mask_crops.crop_masks([encode(blob) for blob in blobs], 150, 200, 112)
    boxes = np.float32([[15, 25, 125, 175], [20, 22, 41, 56], [60, 20, 140, 100], [30, 60, 90, 200]])
    matches = np.int32([[0, 1, 2, 0]])
    bitmaps = np.stack(blobs)[None].astype(np.uint8) * 255
    whole = np.tile(np.float32([0, 0, 150, 200]), (1, 3, 1))
    expected = mask_ops.mask_targets(tf.constant(bitmaps), tf.constant(whole), boxes[None], matches)
    targets = mask_ops.mask_targets(tf.constant(cells[None]), tf.constant(crop_boxes[None]), boxes[None], matches)
    assert 0.3 < np.mean(expected) < 0.8
    assert np.mean(targets.numpy() != expected.numpy()) < 0.004


def find(boxes, masks, crop_boxes, size, whole=None):
    arguments = (np.float32(boxes), np.uint8(masks), np.float32(crop_boxes), np.int32(size))
    whole = None if whole is None else tf.constant(np.uint8(whole))
    boxes, seen = mask_crops.visible_boxes(*(tf.constant(values) for values in arguments), whole)
    return boxes.numpy(), seen.numpy()


# A hook in cells of one pixel, in a crop box that begins at (10, 20): a bar over cells (1, 1) ... (1, 4), and a stem
# below its left end.
HOOK = np.zeros((6, 6), np.uint8)
HOOK[1, 1:5] = HOOK[1:5, 1] = 255
CROP_BOX = [10, 20, 16, 26]
BOX = [11, 21, 15, 25]


def test_a_whole_object_keeps_its_box():
    boxes, seen = find([[11.3, 20.8, 15.2, 25]], [HOOK], [CROP_BOX], (100, 100))
    np.testing.assert_array_equal(boxes, np.float32([[11.3, 20.8, 15.2, 25]]))
    assert seen.all()


def test_an_edge_cuts_a_box_and_the_rest_of_the_mask_moves_the_other_sides():
    boxes, seen = find([BOX] * 3, [HOOK] * 3, [CROP_BOX] * 3, (100, 23))
    np.testing.assert_array_equal(boxes, [[11, 21, 15, 23]] * 3)
    # Six pixels higher, the bar is in row 5, and everything below is cut off.
    boxes, seen = find(np.subtract([BOX], [[6, 0, 6, 0]]), [HOOK], np.subtract([CROP_BOX], [[6, 0, 6, 0]]), (6, 100))
    np.testing.assert_array_equal(boxes, [[5, 21, 6, 25]])
    # Moved left beyond the edge, only the bar's end is left, and the box's lower side follows: 12, not 15.
    boxes, seen = find([[11, -2, 15, 2]], [HOOK], [[10, -3, 16, 3]], (100, 100))
    np.testing.assert_array_equal(boxes, [[11, 0, 12, 2]])
    assert seen.all()


def test_occluded_cells_move_a_side():
    mask = HOOK.copy()
    mask[1, 3:] = 0
    boxes, _ = find([BOX], [mask], [CROP_BOX], (100, 100))
    np.testing.assert_array_equal(boxes, [[11, 21, 15, 22 + 1]])
    mask[:] = 0
    assert find([BOX, BOX], [mask, HOOK], [CROP_BOX] * 2, (100, 100))[1].tolist() == [False, True]


def test_a_mask_that_covers_half_of_no_cell_is_visible_where_it_covers_any():
    faint = np.uint8([HOOK // 4])
    boxes, seen = find([BOX] * 2, [HOOK, faint[0]], [CROP_BOX] * 2, (100, 23))
    np.testing.assert_array_equal(boxes, [[11, 21, 15, 23]] * 2)
    assert seen.all()
    assert not find([[-9, 3, -1, 8]], faint, [[-10, 2, 0, 9]], (50, 50))[1].any()
    # What is left of an occluded object is invisible if it covers half of no cell.
    assert not find([BOX], faint, [CROP_BOX], (100, 100), whole=[HOOK])[1].any()


def test_out_of_the_image():
    _, seen = find([[-9, 3, -1, 8], [2, 3, 4, 5]], np.stack([HOOK, HOOK]), [[-10, 2, 0, 9], [1, 2, 5, 6]], (50, 50))
    assert seen.tolist() == [False, True]


def test_without_a_mask_the_box_decides():
    empty = np.zeros((2, 6, 6))
    boxes, seen = find([[-2, 3, 4, 8], [60, 3, 70, 8]], empty, np.zeros((2, 4)), (50, 50))
    np.testing.assert_array_equal(boxes[0], [0, 3, 4, 8])
    assert seen.tolist() == [True, False]
    assert find(np.zeros((0, 4)), np.zeros((0, 6, 6)), np.zeros((0, 4)), (5, 5))[0].shape == (0, 4)


def test_boxes_of_cut_blobs_match_their_pixels():
    ys, xs = np.mgrid[:150, :200] + 0.5
    # Slanted, so that a cut moves other sides, too.
    blob = ((ys - 70) / 50) ** 2 + ((xs - 100) / 70 - (ys - 70) / 90) ** 2 < 1
    mask, crop_box = mask_crops.crop_masks(
        [coco_mask.encode(np.asfortranarray(blob, np.uint8))["counts"]], 150, 200, 112
    )
    rows, columns = np.nonzero(blob)
    box = np.float32([[rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]])
    cell = (crop_box[0, 2:] - crop_box[0, :2]).max() / 112
    for top, left, bottom, right in [(0, 0, 60, 200), (90, 0, 150, 200), (30, 40, 80, 110), (100, 120, 140, 200)]:
        shift = np.float32([top, left, top, left])
        found, _ = find(box - shift, mask, crop_box - shift, (bottom - top, right - left))
        rows, columns = np.nonzero(blob[top:bottom, left:right])
        exact = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(found[0], exact, atol=1.5 * cell + 0.5)
