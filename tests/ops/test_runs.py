"""Runs of masks in a large image: every operation equals the one on arrays, and the strings are pycocotools' own."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.ops import runs as ops

HEIGHT, WIDTH = 23, 31


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def draw_masks(seed):
    """Masks from empty to full, of blocks and of single pixels, those at the border included."""
    rng = np.random.default_rng(seed)
    masks = [rng.random([HEIGHT, WIDTH]) < share for share in (0, 0.02, 0.5, 0.98, 1)]
    for _ in range(5):
        mask = np.zeros([HEIGHT, WIDTH], bool)
        (top, bottom), (left, right) = np.sort(rng.integers(0, HEIGHT + 1, 2)), np.sort(rng.integers(0, WIDTH + 1, 2))
        mask[top:bottom, left:right] = True
        masks.append(mask)
    return masks


def to_runs(mask):
    return ops.place_runs(encode(mask), 0, 0, len(mask))


def to_mask(runs):
    return coco_mask.decode(ops.encode_runs([runs], HEIGHT, WIDTH))[..., 0].astype(bool)


@pytest.mark.parametrize("counts", ["132!", "é", ""])
def test_invalid_run_lengths_are_refused_and_not_an_empty_mask(counts):
    with pytest.raises(UserError, match="invalid run lengths"):
        ops.place_runs({"size": [3, 2], "counts": counts}, 0, 0, 3)


def test_runs_by_hand():
    mask = np.zeros([3, 2], bool)
    mask[1:, 0] = mask[0, 1] = True  # one run of COCO's, in two columns
    assert encode(mask)["counts"] == "132"
    assert ops.place_runs(encode(mask), 0, 0, 3).tolist() == [[1, 3], [3, 4]]
    assert ops.place_runs(encode(mask), 2, 1, 10).tolist() == [[13, 15], [22, 23]]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 0, 3, 0, 8], []),
        ([5, 0, 11], []),
        ([16, 0], []),
        ([0, 0, 0, 3, 13], [[0, 3]]),
        ([3, 2, 0, 2, 9], [[3, 4], [4, 7]]),
        ([2, 2, 3, 0, 4, 2, 0, 0, 0, 2, 1], [[2, 4], [11, 12], [12, 15]]),
        ([12, 4, 0], [[12, 16]]),
    ],
)
def test_runs_without_pixels(counts, expected):
    """They are valid: empty runs of the mask are left out, and those without background between them are one."""
    encoded = coco_mask.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4)
    mask = {"size": [4, 4], "counts": encoded["counts"].decode()}
    runs = ops.place_runs(mask, 0, 0, 4)
    assert runs.tolist() == expected
    assert ops.count_pixels(ops.unite_runs([runs, np.array([[13, 16]])])) == len(
        {*range(13, 16), *(pixel for start, end in expected for pixel in range(start, end))}
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_strings_are_those_of_pycocotools(seed):
    masks = draw_masks(seed)
    assert ops.encode_runs([to_runs(mask) for mask in masks], HEIGHT, WIDTH) == [encode(mask) for mask in masks]
    assert ops.encode_runs([], HEIGHT, WIDTH) == []


@pytest.mark.parametrize("corner", [(0, 0), (5, 7), (HEIGHT - 9, WIDTH - 11)])
def test_the_mask_of_a_part_is_placed_in_the_image(corner):
    top, left = corner
    for mask in draw_masks(4):
        whole = np.zeros([HEIGHT, WIDTH], bool)
        whole[top : top + 9, left : left + 11] = mask[:9, :11]
        np.testing.assert_array_equal(to_mask(ops.place_runs(encode(mask[:9, :11]), top, left, HEIGHT)), whole)


@pytest.mark.parametrize("window", [(0, 0, HEIGHT, WIDTH), (3, 4, 9, 11), (0, 30, 5, 1), (22, 0, 1, 31), (5, 5, 0, 3)])
def test_clipping(window):
    top, left, height, width = window
    for mask in draw_masks(5):
        inside = np.zeros_like(mask)
        inside[top : top + height, left : left + width] = mask[top : top + height, left : left + width]
        clipped = ops.clip_runs(to_runs(mask), window, HEIGHT)
        np.testing.assert_array_equal(to_mask(clipped), inside)
        assert ops.count_pixels(clipped) == inside.sum()


def test_union_and_common_pixels():
    masks = draw_masks(6)
    runs = [to_runs(mask) for mask in masks]
    for one, one_runs in zip(masks, runs, strict=True):
        for other, other_runs in zip(masks, runs, strict=True):
            united = ops.unite_runs([one_runs, other_runs])
            np.testing.assert_array_equal(to_mask(united), one | other)
            assert ops.count_common_pixels(one_runs, other_runs) == (one & other).sum()
            columns = united // HEIGHT
            assert (columns[:, 0] == (united[:, 1] - 1) // HEIGHT).all() and (np.diff(united[:, 0]) > 0).all()
    np.testing.assert_array_equal(to_mask(ops.unite_runs(runs[5:])), np.any(masks[5:], axis=0))


def test_an_image_of_900_million_pixels():
    """The mask of a tile far down and right: its runs lie beyond 32 bits of a byte offset, and no image is drawn."""
    mask = np.zeros([1024, 1024], bool)
    mask[100:300, 200:500] = True
    (whole,) = ops.encode_runs([ops.place_runs(encode(mask), 28_976, 28_976, 30_000)], 30_000, 30_000)
    assert coco_mask.area(whole) == 200 * 300
    assert coco_mask.toBbox(whole).tolist() == [29_176, 29_076, 300, 200]
