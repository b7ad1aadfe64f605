"""The benchmark of inference on a tiny network: it finds as much as it may, and its parts make up the whole."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import benchmark
from htc_tf.benchmarks import machine
from htc_tf.benchmarks.drawn_scene import MEDIAN_SCALE, draw_boxes, draw_picture, propose_usual_boxes
from htc_tf.structures import Proposals


def test_boxes_are_as_large_as_objects_are():
    boxes = draw_boxes(2000, 800, 1344)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.dtype == np.float32 and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [800.001, 1344.001]).all()
    assert sides.min() > 3.99
    assert np.median(np.sqrt(sides.prod(axis=1))) == pytest.approx(MEDIAN_SCALE, rel=0.1)
    half = draw_boxes(2000, 400, 672)
    assert np.median(np.sqrt((half[:, 2:] - half[:, :2]).prod(axis=1))) == pytest.approx(MEDIAN_SCALE / 2, rel=0.1)


def test_a_picture():
    picture = draw_picture(40, 70)
    assert picture.shape == (40, 70, 3) and picture.dtype == np.uint8 and 30 < picture.std() < 90
    assert (picture == draw_picture(40, 70)).all() and (picture != draw_picture(40, 70, seed=1)).any()


def test_usual_boxes_wait_for_what_was_found():
    """Else the graph would pool them before the RPN has run, and hold more at once than a trained network's."""
    found = Proposals(tf.fill([1, 5, 4], 1e4), tf.ones([1, 5]), tf.fill([1, 5], True))
    rpn = SimpleNamespace(propose=lambda boxes: found._replace(boxes=boxes))
    propose_usual_boxes(rpn, 300, 500)
    np.testing.assert_array_equal(rpn.propose(found.boxes).boxes[0], draw_boxes(5, 300, 500))
    assert np.isnan(rpn.propose(found.boxes * np.nan).boxes).all()


def test_the_command(monkeypatch, tmp_path, capsys, eagerly):
    monkeypatch.setattr(machine, "matmul_rate", lambda precision: 1e9)
    monkeypatch.setattr(machine, "copy_rate", lambda: 2e9)
    output = tmp_path / "inference.json"
    flags = [
        "--gin_file=tests/tiny.gin",
        "--height=50",
        "--width=64",
        "--batch=2",
        "--repeats=2",
        "--gin_param=NUM_STAGES=1",
    ]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--mode=inference", *flags, f"--json={output}"])
    benchmark.main()
    content = json.loads(output.read_text())
    details = content["details"]
    assert content["unit"] == "image" and 0 < content["cpu_seconds"]["median"] < 60
    assert (details["proposals"], details["detections"]) == ("24 an image", "10 an image")
    assert details["machine"] == {"matmul_rate": 1e9, "copy_rate": 2e9}
    parts = {name: part for name, part in details.items() if isinstance(part, dict) and "cpu_ms_an_image" in part}
    assert list(parts)[:3] == ["resizing", "backbone and FPN", "RPN"] and list(parts)[-1] == "pasting"
    assert sum(part["share"] for name, part in parts.items() if "RoIAlign" not in name) == pytest.approx(1)
    share = details["share of the limit"]
    assert share["amount"] == pytest.approx(sum(part["flop_an_image"] for part in parts.values()))
    assert share["share"] == pytest.approx(share["amount"] / 1e9 / content["cpu_seconds"]["median"])
    table = capsys.readouterr().out
    assert "inference: 50 x 64, batch 2, float32" in table and "box stages: RoIAlign" in table
