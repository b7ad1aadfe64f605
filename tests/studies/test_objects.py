"""`tests.studies.objects` on a scene whose shares can be counted by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.studies import objects, recorded

SIDE = 40
# Two objects whose boxes overlap, and a large one far away: [x, y, width, height] and class.
THERE = [((0, 0, 10, 10), 1), ((8, 8, 10, 10), 2), ((20, 20, 20, 20), 1)]


def run_lengths(box):
    x, y, width, height = box
    mask = np.zeros([SIDE, SIDE], np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    return {**encoded, "counts": encoded["counts"].decode()}


def entry(box, label, **more):
    return {"image_id": 1, "category_id": label, "bbox": list(box), "segmentation": run_lengths(box), **more}


def measure(tmp_path, results):
    truth = [entry(box, label, id=1 + i, area=box[2] * box[3], iscrowd=0) for i, (box, label) in enumerate(THERE)]
    images = [{"id": 1, "height": SIDE, "width": SIDE}, {"id": 2, "height": SIDE, "width": SIDE}]  # the second is empty
    categories = [{"id": 1, "name": "a on c"}, {"id": 2, "name": "a on d"}]
    files = [tmp_path / "annotations.json", tmp_path / recorded.PREDICTIONS]
    for file, content in zip(
        files, [{"images": images, "annotations": truth, "categories": categories}, results], strict=True
    ):
        file.write_text(json.dumps(content))
    return objects.measure_objects(*files)


def test_objects_are_counted_by_what_is_beside_them(tmp_path):
    results = [
        entry((0, 0, 10, 10), 1, score=0.4),
        entry((0, 0, 10, 8), 2, score=0.9),  # the first object's best, IoU 0.8, of the wrong class
        entry((8, 8, 10, 10), 2, score=0.29),  # scores too little
        entry((20, 20, 20, 16), 1, score=0.5),  # IoU 0.8
    ]
    found = measure(tmp_path, results)
    assert list(found) == list(objects.GROUPS) and all(set(of) == {*objects.SHARES, "objects"} for of in found.values())
    wrong, right = ({"named": x, "shape": 1, "ground": x, "outlined": 0.8} for x in (0, 1))  # "a on c" is not "a on d"
    half = {"named": 0.5, "shape": 1, "ground": 0.5, "outlined": 0.8}
    assert found["all"] == {"found": pytest.approx(2 / 3, abs=1e-5), **half, "objects": 3}
    assert found["crowded"] == {"found": 0.5, **wrong, "objects": 2}
    assert found["alone"] == {"found": 1, **right, "objects": 1}
    assert found["surest"] == {"found": 1, **wrong, "objects": 1}  # a score of 0.9 against 0.5
    # The median area, 100, is that of both small objects, so none is below it.
    assert found["large"]["objects"] == 3 and not any(found["small"].values())


def test_no_detections_find_nothing(tmp_path):
    found = measure(tmp_path, [])
    assert found.pop("all")["objects"] == 3 and not any(of["found"] for of in found.values())


def test_rows_are_compared_by_group():
    def measured(value):
        return {group: {**dict.fromkeys(objects.SHARES, value), "objects": 1234} for group in objects.GROUPS}

    lines = objects.compare_objects({"base": [measured(0.5), measured(0.6)], "part": [measured(0.6), measured(0.7)]})
    assert lines.count("| objects | base | part | all of them |") == len(objects.SHARES)
    row = "**+10.0** (+10.0 to +10.0)"
    assert lines.count(f"| crowded (1,234) | 55.0 | {row} | {row} |") == len(objects.SHARES)
