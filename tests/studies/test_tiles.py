"""The study of tiles: what is stitched is evaluated by scene, and the section that is written."""

from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.inference.results import ImageResult
from tests.studies import tiles


def test_perfect_detections_in_the_mosaic_have_ap_1(monkeypatch):
    monkeypatch.setattr(tiles, "GRID", 2)
    monkeypatch.setattr(tiles, "SIDE", 2 * tiles.CELL)
    drawn = tiles.draw_scenes(3)
    assert tiles.stitch(drawn).shape == (480, 480, 3) and len(drawn) == 4
    boxes, labels, runs = [], [], []
    for index, scene in enumerate(drawn):
        top, left, height, width = tiles.window_of(index)
        np.testing.assert_array_equal(tiles.stitch(drawn)[top : top + height, left : left + width], scene.image)
        for thing in scene.things:
            mask = np.zeros([480, 480], np.uint8, order="F")
            mask[top : top + height, left : left + width] = thing.mask
            run = coco_mask.encode(mask)
            x, y, width_of, height_of = coco_mask.toBbox(run)
            boxes.append([y, x, y + height_of, x + width_of])
            labels.append(thing.label)
            runs.append({"size": run["size"], "counts": run["counts"].decode()})
    result = ImageResult(np.float32(boxes), np.ones(len(boxes), np.float32), np.int32(labels), runs)
    assert tiles.evaluate(tiles.ground_truth(drawn), result) == pytest.approx((1, 1))


def test_the_section():
    compared = tiles.row_name(*tiles.COMPARED)
    names = [tiles.ALONE, tiles.SHRUNK, *(tiles.row_name(*tile) for tile in tiles.TILES)]
    metrics = {(name, tiles.SETTINGS[0]): (0.5, 0.4) for name in names}
    metrics |= {(compared, setting): (0.25, 0.125) for setting in tiles.SETTINGS}
    entries = {name: {"tiles": [0] * 9, "seconds": 1.6} for name in names}
    text = "\n".join(tiles.report(metrics, entries, SimpleNamespace(seed=7)))
    assert "| scenes one by one | 0.500 | 0.400 | 9 | 2 |" in text and "(seed 7)" in text
    assert "| nothing merged or dropped | 0.250 | 0.125 |" in text
