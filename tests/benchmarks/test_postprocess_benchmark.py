"""The benchmark of the postprocess times both ways, and trusts neither before plain NMS has found the same."""

import json

import numpy as np
import pytest

from htc_tf.benchmarks import machine, postprocess
from htc_tf.benchmarks.measure import Work, format_table
from htc_tf.errors import UserError
from htc_tf.models.postprocess import Postprocess

WORK = Work(100, 120, 2, "float32", None, 2)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(postprocess, "BOXES", 60)
    monkeypatch.setattr(postprocess, "CLASSES", 5)
    monkeypatch.setattr(postprocess, "OBJECTS", 6)
    monkeypatch.setattr(postprocess, "copy_rate", lambda: machine.copy_rate(2**16))


def test_both_ways_are_measured(small):
    found = postprocess.run(WORK)
    assert found.unit == "image" and 0 < found.cpu_seconds["median"] < 10
    details = json.loads(json.dumps(found.details))
    assert details["XLA"]["median"] > 0 and details["share of the limit"]["unit"] == "B"
    # Three stages' logits and the boxes, float32, of an image.
    assert details["share of the limit"]["amount"] == 4 * (3 * 60 * 6 + 60 * 4)
    assert "XLA " in format_table("postprocess", WORK, found)


def test_a_difference_is_an_error(small, monkeypatch):
    monkeypatch.setattr(postprocess, "overlaps", lambda box, others: np.zeros(len(others)))
    with pytest.raises(UserError, match="graph: the detections are not those of plain NMS"):
        postprocess.run(WORK)


def test_plain_nms():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 10]])
    scores = np.float32([[0.9, 0.1], [0.8, 0.7], [0.6, 0.0], [0.3, 0.2]])
    way = Postprocess(score_threshold=0.15, nms_threshold=0.5, keep=3)
    # Of class 0 the first hides two; of class 1 the second hides the last.
    found = [(round(float(score), 3), label) for score, label in postprocess.select_plainly(boxes, scores, way)]
    assert found == [(0.9, 0), (0.7, 1), (0.6, 0)]
    assert postprocess.overlaps(boxes[0], boxes[1:]) == pytest.approx([0.9, 0, 1])
