"""Boxes against masks: realistic noise passes; other conventions are rejected and named."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipelines import agreement, objects
from pipelines.checks import Counters, Rejected

HEIGHT, WIDTH = 300, 400
BOXES = [(60, 40, 90, 50), (200, 130, 60, 120), (150, 20, 31, 80)]


def rectangle(x, y, w, h):
    return [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]


def run_lengths(x, y, w, h, order="F"):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order=order)])))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, mask.size]).tolist()}


def convert(bbox, segmentation):
    row = {"id": 1, "category_id": 1, "iscrowd": 0, "area": None, "bbox": list(bbox), "segmentation": segmentation}
    return objects.convert(row, "cat", HEIGHT, WIDTH, True, Counters())


def readings(bbox, segmentation):
    with pytest.raises(Rejected, match="box_mask_disagree") as error:
        convert(bbox, segmentation)
    return error.value.reads_as


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("noise", [(0.3, -0.4, 0.2, 0.4), (-2, -2, 4, 4), (5, 5, -8, -8)])
def test_noise_is_accepted(box, noise):
    bbox = np.add(box, noise).tolist()
    convert(bbox, [rectangle(*box)])
    convert(bbox, run_lengths(*box))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(
    "change, name",
    [
        (lambda x, y, w, h: (x, y, x + w, y + h), "bbox is [x1, y1, x2, y2]"),
        (lambda x, y, w, h: (x + w / 2, y + h / 2, w, h), "bbox is [center x, center y, width, height]"),
        (lambda x, y, w, h: (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT), "bbox is in fractions of the image"),
        (lambda x, y, w, h: (x / 4, y / 3, w / 4, h / 3), "bbox is in percent of the image"),
        (lambda x, y, w, h: (y, x, h, w), "x and y are swapped in bbox or in the mask"),
        (lambda x, y, w, h: (x, HEIGHT - y - h, w, h), "bbox or the mask is upside down"),
        (lambda x, y, w, h: (WIDTH - x - w, y, w, h), "bbox or the mask is mirrored"),
        (lambda x, y, w, h: (x / 2, y / 2, w / 2, h / 2), agreement.SCALED),
    ],
)
def test_other_conventions_of_boxes_are_named(box, change, name):
    assert name in readings(change(*box), [rectangle(*box)])


@pytest.mark.parametrize("box", BOXES)
def test_other_conventions_of_masks_are_named(box):
    assert readings(box, run_lengths(*box, order="C")) == [agreement.ROWS]
    fractions = np.divide(rectangle(*box), [WIDTH, HEIGHT] * 4).tolist()
    assert agreement.FRACTIONS in readings(box, [fractions])


def test_a_mask_without_pixels_fits_only_small_boxes():
    empty = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    convert((5, 5, 3, 3), empty)
    assert readings((5, 5, 30, 30), empty) == []


def test_other_conventions_are_tried_for_a_limited_number_of_objects():
    counters = Counters()
    counters.counts["box_mask_disagree"] = agreement.MAX_TRIED
    row = {"id": 1, "category_id": 1, "iscrowd": 0, "bbox": [9, 9, 9, 9], "segmentation": [rectangle(*BOXES[0])]}
    with pytest.raises(Rejected) as error:
        objects.convert(row, "cat", HEIGHT, WIDTH, True, counters)
    assert error.value.reads_as is None


def test_every_object_of_coco_agrees(coco_sample):
    content = json.loads((coco_sample / "annotations" / "instances_train2017.json").read_text())
    sizes = {row["id"]: (row["height"], row["width"]) for row in content["images"]}
    for row in content["annotations"]:
        height, width = sizes[row["image_id"]]
        counts = objects.to_rle(row["segmentation"], height, width, Counters())
        own = objects.compute_mask_box(counts, row["segmentation"], height, width)
        ymin, xmin, ymax, xmax = objects.clip_box(row["bbox"], height, width, Counters())
        assert agreement.agree((xmin, ymin, xmax, ymax), own), row["id"]
    assert coco_mask.area({"size": [height, width], "counts": counts}) > 0
