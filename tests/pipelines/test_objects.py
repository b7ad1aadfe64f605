"""Boxes and masks of annotations: valid ones equal pycocotools' results, broken ones never reach it."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.data import annotations
from pipelines import objects
from pipelines.checks import ANNOTATION_REASONS, Counters, Rejected

HEIGHT, WIDTH = 40, 60
EMPTY = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
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
    counters = Counters()
    return objects.convert(annotation(**changes), "cat", HEIGHT, WIDTH, masks, counters), counters.counts


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
    item, counters = convert(bbox=[10, 5, 40, 30], segmentation=[TRIANGLE, [1.0, 1.0, 9.0, 9.0], other])
    parts = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE, other], HEIGHT, WIDTH))
    np.testing.assert_array_equal(decode(item.mask_rle), parts.any(axis=-1))
    assert counters["polygons_dropped"] == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths(compressed):
    mask = np.asfortranarray(np.random.RandomState(0).rand(HEIGHT, WIDTH) > 0.7, np.uint8)
    counts = coco_mask.encode(mask)["counts"].decode() if compressed else runs_of(mask)
    bbox = [0, 0, WIDTH, HEIGHT]
    item, _ = convert(bbox=bbox, iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": counts})
    assert item.is_crowd == 1
    np.testing.assert_array_equal(decode(item.mask_rle), mask)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.97, 1.0])
def test_decode_runs(threshold):
    mask = np.asfortranarray(np.random.RandomState(1).rand(300, 200) > threshold, np.uint8)
    assert list(annotations.decode_counts(coco_mask.encode(mask)["counts"].decode())) == runs_of(mask)


def runs_of(mask):
    """Computes run lengths by NumPy, down the columns, zeros first."""
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
    counters = Counters()
    assert objects.clip_box(bbox, HEIGHT, WIDTH, counters) == expected
    assert counters.counts["boxes_clipped"] == clipped


def test_a_missing_area_is_computed():
    item, counters = convert(area=None)
    assert item.area == decode(item.mask_rle).sum() and counters["areas_computed"] == 1
    assert convert(masks=False, area=float("nan"))[0].area == 400


def test_boxes_only():
    item, _ = convert(masks=False, segmentation=None)
    assert item.mask_rle == b""


def test_an_empty_mask_is_kept_and_counted():
    item, counters = convert(bbox=[5, 5, 2, 0.5], segmentation=[[5.0, 5.0, 6.0, 5.0, 7.0, 5.0]])
    assert decode(item.mask_rle).sum() == 0 and counters["masks_empty"] == 1
    assert (item.ymax - item.ymin) * HEIGHT == pytest.approx(0.5) and counters["objects_tiny"] == 1


def test_a_missing_box_is_computed_from_the_mask():
    item, counters = convert(bbox=None)
    box = np.multiply((item.xmin, item.ymin, item.xmax, item.ymax), (WIDTH, HEIGHT) * 2)
    rows, columns = np.nonzero(decode(item.mask_rle))
    np.testing.assert_allclose(box, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    assert counters["boxes_computed"] == 1
    boxed, _ = convert(masks=False, bbox=None)
    assert (boxed.xmin, boxed.ymax, boxed.mask_rle) == (item.xmin, item.ymax, b"")
    with pytest.raises(Rejected, match="box_malformed: no bbox"):
        convert(masks=False, bbox=None, segmentation=None)


def test_boxes_computed_from_masks_or_kept_unchanged():
    counters = Counters()
    row = annotation(bbox=[10, 5, 40, 35])
    with pytest.raises(Rejected, match="box_mask_disagree"):
        objects.convert(row, "cat", HEIGHT, WIDTH, True, counters)
    kept = objects.convert(row, "cat", HEIGHT, WIDTH, True, counters, "unchecked")
    assert (kept.xmax, kept.ymax) == (50 / WIDTH, 1.0)
    taken = objects.convert(row, "cat", HEIGHT, WIDTH, True, counters, "mask")
    assert (taken.xmax * WIDTH, taken.ymax * HEIGHT) == pytest.approx((30, 25), abs=1)
    assert counters.counts["boxes_computed"] == 1
    for reason, changes in (("mask_missing", {"segmentation": []}), ("box_empty", {"segmentation": EMPTY})):
        with pytest.raises(Rejected, match=reason):
            objects.convert(annotation(**changes), "cat", HEIGHT, WIDTH, False, counters, "mask")


def test_many_parts_are_drawn_in_chunks():
    random = np.random.RandomState(3)
    corners = random.randint(0, 30, (100, 2))
    parts = [[float(v) for v in (x, y, x + 8, y + 1, x + 3, y + 9)] for x, y in corners]
    item, _ = convert(bbox=None, segmentation=parts)
    expected = coco_mask.decode(coco_mask.frPyObjects(parts, HEIGHT, WIDTH)).any(axis=-1)
    np.testing.assert_array_equal(decode(item.mask_rle), expected)


@pytest.mark.parametrize(
    "polygons",
    [
        [[0, 0, 6999, number % 7, 1, 6999] for number in range(1000)],
        [[value for row in range(50_000) for value in (0, row % 7000, 6999, row % 7000)]],
    ],
    ids=["1000 parts", "zigzag"],
)
def test_outlines_that_would_exhaust_memory_are_not_drawn(polygons, monkeypatch):
    monkeypatch.setattr(objects.coco_mask, "frPyObjects", None)
    with pytest.raises(Rejected, match="polygon_too_long"):
        objects.to_rle(polygons, 7000, 7000, Counters())


def test_numbers_beyond_floats_do_not_end_the_job():
    huge = 10**400
    assert convert(area=huge)[1]["areas_computed"] == 1
    assert convert(area=1e300)[1]["areas_computed"] == 1
    assert convert(area=0)[1]["areas_computed"] == 1 and convert(area=0)[0].area > 0


NAN = float("nan")
SIZE = [HEIGHT, WIDTH]
BROKEN = [
    ("box_malformed", {"bbox": [1, 2, 3, 10**400]}),
    ("box_malformed", {"bbox": [-(10**400), 2, 3, 4]}),
    ("box_malformed", {"bbox": {"x": 1}}),
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
    ("polygon_malformed", {"segmentation": [[*TRIANGLE, 10**400, 1.0]]}),
    ("polygon_malformed", {"segmentation": [[10**400] * 6]}),
    ("polygon_malformed", {"segmentation": [{"size": [40, 60], "counts": [2400]}, TRIANGLE]}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": [10**400]}}),
    ("rle_malformed", {"segmentation": {"size": SIZE, "counts": "\ud800"}}),
    ("box_mask_disagree", {"segmentation": {"size": SIZE, "counts": [2400]}}),
    ("box_mask_disagree", {"bbox": [0, 0, 10**308, 10**308]}),
    ("box_mask_disagree", {"bbox": [-(10**308), 2, 10**308 + 10**306, 10**308]}),
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
    assert len(error.value.detail) < 200 and "{'" not in error.value.detail
