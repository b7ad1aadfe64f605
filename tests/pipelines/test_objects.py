"""Boxes and masks of annotations: what is kept equals pycocotools' own, what is broken never reaches it."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipelines import objects
from pipelines.checks import ANNOTATION_REASONS, Rejected, Tally

HEIGHT, WIDTH = 40, 60
TRIANGLE = [10.0, 5.0, 30.0, 5.0, 20.0, 25.0]


def annotation(**changes):
    return {
        "id": 5,
        "category_id": 3,
        "bbox": [10, 5, 20, 20],
        "area": 200.0,
        "iscrowd": 0,
        "segmentation": [TRIANGLE],
    } | changes


def convert(masks=True, **changes):
    tally = Tally()
    return objects.convert(annotation(**changes), "cat", HEIGHT, WIDTH, masks, tally), tally.counters


def decode(counts):
    return coco_mask.decode({"size": [HEIGHT, WIDTH], "counts": counts})


def test_plain_object():
    item, counters = convert()
    assert (item.id, item.label, item.text, item.is_crowd, item.area) == (5, 3, "cat", 0, 200.0)
    np.testing.assert_allclose((item.ymin, item.xmin, item.ymax, item.xmax), (5 / 40, 10 / 60, 25 / 40, 30 / 60))
    expected = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH))[..., 0]
    np.testing.assert_array_equal(decode(item.mask_rle), expected)
    assert not +counters


def test_parts_are_merged_and_two_points_are_dropped():
    other = [40.0, 20.0, 50.0, 20.0, 50.0, 35.0, 40.0, 35.0]
    item, counters = convert(segmentation=[TRIANGLE, [1.0, 1.0, 9.0, 9.0], other])
    parts = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE, other], HEIGHT, WIDTH))
    np.testing.assert_array_equal(decode(item.mask_rle), parts.any(axis=-1))
    assert counters["polygons_dropped"] == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths(compressed):
    mask = np.asfortranarray(np.random.RandomState(0).rand(HEIGHT, WIDTH) > 0.7, np.uint8)
    counts = coco_mask.encode(mask)["counts"].decode() if compressed else runs_of(mask)
    item, _ = convert(iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": counts})
    assert item.is_crowd == 1
    np.testing.assert_array_equal(decode(item.mask_rle), mask)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_decode_runs(threshold):
    mask = np.asfortranarray(np.random.RandomState(1).rand(300, 200) > threshold, np.uint8)
    assert objects.decode_runs(coco_mask.encode(mask)["counts"].decode()) == runs_of(mask)


def runs_of(mask):
    """Run lengths by numpy, in columns, the first of zeros."""
    flat = np.concatenate([[0], mask.flatten(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff([0, *edges, mask.size]).tolist()


@pytest.mark.parametrize(
    "bbox, expected, clipped",
    [
        ([-5, -4, 20, 20], (0, 0, 16, 15), 1),
        ([50, 30, 100, 100], (30, 50, 40, 60), 1),
        ([0.0, 0.0, 60.0000001, 40.0], (0, 0, 40, 60), 0),
    ],
)
def test_boxes_are_clipped(bbox, expected, clipped):
    tally = Tally()
    assert objects.clip_box(bbox, HEIGHT, WIDTH, tally) == expected
    assert tally.counters["boxes_clipped"] == clipped


def test_area_is_computed_where_there_is_none():
    item, counters = convert(area=None)
    assert item.area == decode(item.mask_rle).sum() and counters["areas_computed"] == 1
    assert convert(masks=False, area=float("nan"))[0].area == 400


def test_boxes_only():
    item, _ = convert(masks=False, segmentation=None)
    assert item.mask_rle == b""


def test_an_empty_mask_is_kept_and_counted():
    item, counters = convert(segmentation=[[5.0, 5.0, 6.0, 5.0, 7.0, 5.0]])
    assert decode(item.mask_rle).sum() == 0 and counters["masks_empty"] == 1


NAN = float("nan")
SIZE = [HEIGHT, WIDTH]
BROKEN = [
    ("box_malformed", {"bbox": None}),
    ("box_malformed", {"bbox": [1, 2, 3]}),
    ("box_malformed", {"bbox": [1, 2, 3, "4"]}),
    ("box_malformed", {"bbox": [NAN, 2, 3, 4]}),
    ("box_malformed", {"bbox": [1, 2, float("inf"), 4]}),
    ("box_empty", {"bbox": [1, 2, 0, 4]}),
    ("box_empty", {"bbox": [1, 2, 3, -4]}),
    ("box_outside", {"bbox": [60, 2, 3, 4]}),
    ("box_outside", {"bbox": [1, -9, 3, 9]}),
    ("mask_missing", {"segmentation": None}),
    ("mask_missing", {"segmentation": []}),
    ("polygon_malformed", {"segmentation": "polygon"}),
    ("polygon_malformed", {"segmentation": [[1.0, 2.0, 3.0, 4.0]]}),
    ("polygon_malformed", {"segmentation": [[]]}),
    ("polygon_malformed", {"segmentation": [TRIANGLE, [*TRIANGLE, 7.0]]}),
    ("polygon_malformed", {"segmentation": [[*TRIANGLE, NAN, 1.0]]}),
    ("polygon_malformed", {"segmentation": [[*TRIANGLE, float("inf"), 1.0]]}),
    ("polygon_malformed", {"segmentation": [[*TRIANGLE, None, 1.0]]}),
    ("polygon_malformed", {"segmentation": TRIANGLE}),
    ("polygon_malformed", {"segmentation": [["1", "2", "3", "4", "5", "6"]]}),
    ("polygon_malformed", {"segmentation": [[[1, 2], [3, 4], [5, 6]]]}),
    ("polygon_far_outside", {"segmentation": [[*TRIANGLE, 1e9, 1.0]]}),
    ("polygon_far_outside", {"segmentation": [[*TRIANGLE, -1e9, 1.0]]}),
    ("rle_size_differs", {"segmentation": {"size": [WIDTH, HEIGHT], "counts": [2400]}}),
    ("rle_size_differs", {"segmentation": {"counts": [2400]}}),
    ("rle_malformed", {"segmentation": {"size": SIZE}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": [2000, 300]}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": [3000, -600]}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": [1200.0, 1200.0]}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": ""}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": "`"}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": "ü€"}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": "o" * 50}}),
]


@pytest.mark.parametrize("reason, changes", BROKEN)
def test_broken_annotations_are_rejected(reason, changes):
    with pytest.raises(Rejected) as error:
        convert(**changes)
    assert error.value.reason == reason
    assert reason in ANNOTATION_REASONS
