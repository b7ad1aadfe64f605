"""The benchmarks of masks and of evaluation compare with pycocotools' own results."""

from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.evaluation.evaluator import METRICS
from tests.benchmarks import evaluation

FLAGS = SimpleNamespace(height=60, width=80, batch=5, repeats=2)


def test_masks():
    found = evaluation.run_masks(FLAGS)
    assert found.unit == "image" and 0 < found.cpu_seconds["median"] < 60
    assert found.details["masks"] == "5, boxes of all sizes" and found.details["every pixel, ms"] > 0


def test_different_masks_are_an_error(monkeypatch):
    monkeypatch.setattr(evaluation, "encode_masks", lambda masks, *rest: [{"size": [60, 80], "counts": ""}] * 5)
    with pytest.raises(UserError, match="differ from those of pycocotools"):
        evaluation.run_masks(FLAGS)


def test_eval():
    found = evaluation.run_eval(SimpleNamespace(height=60, width=80, batch=2, repeats=1))
    assert found.unit == "image" and 0 < found.cpu_seconds["median"] < 60
    assert found.details["metrics"].startswith(f"{2 * len(METRICS)}, equal")
    # Drawn so that some objects are found and others are not.
    assert all(0.1 < ap < 0.99 for ap in found.details["AP"].values())
    assert found.details["pycocotools"]["cpu_seconds"] > 0


def test_drawn_boxes_have_a_size():
    """Also where the corners of a small object have moved past each other: results of negative size are refused."""
    draw = np.random.default_rng(0)
    ground_truth = evaluation.draw_ground_truth(draw, 20, 480, 640)
    for image in ground_truth["images"]:
        boxes = evaluation.draw_result(draw, ground_truth, image).boxes
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_different_metrics_are_an_error(monkeypatch):
    ours = evaluation.evaluate_results
    monkeypatch.setattr(evaluation, "evaluate_results", lambda *inputs: {**ours(*inputs), "segm/AR10": 0.5})
    with pytest.raises(UserError, match=r"segm/AR10 is 0\.5, pycocotools says"):
        evaluation.run_eval(SimpleNamespace(height=60, width=80, batch=2, repeats=1))
