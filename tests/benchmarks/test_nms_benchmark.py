"""The benchmark of NMS times both ways of proposals and of detections, once they agree."""

import json

import pytest

from htc_tf.benchmarks import machine, nms, postprocess
from htc_tf.benchmarks.measure import Work, format_table
from htc_tf.errors import UserError

WORK = Work(100, 120, 2, "float32", None, 2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("LEVELS", 2), ("CANDIDATES", 30), ("OBJECTS", 4)):
        monkeypatch.setattr(nms, name, value)
    for name, value in (("BOXES", 40), ("CLASSES", 5), ("OBJECTS", 6)):
        monkeypatch.setattr(postprocess, name, value)
    monkeypatch.setattr(nms, "KEEP", {"proposals": 20, "final": 10})
    monkeypatch.setattr(nms, "copy_rate", lambda: machine.copy_rate(2**16))


def test_both_ways_of_both_are_measured():
    found = nms.run(WORK)
    details = json.loads(json.dumps(found.details))
    rows = [f"{part}, {way}" for part in nms.KEEP for way in nms.WAYS]
    assert all(details[row]["cpu_seconds"]["median"] > 0 for row in rows)
    assert details[rows[0]]["cpu_seconds"] == found.cpu_seconds
    # Boxes and scores in float32 and a byte for whether they count.
    assert details[rows[0]]["share_of_the_limit"]["amount"] == 2 * 2 * 30 * (4 * 4 + 4 + 1)
    assert "final, XLA " in format_table("nms", WORK, found)


def test_a_difference_is_an_error(monkeypatch):
    select = nms.select_proposals

    def differ(boxes, scores, valid, threshold, keep, way):
        return select(boxes, scores, valid, threshold if way == "xla" else 0.0, keep, way)

    monkeypatch.setattr(nms, "select_proposals", differ)
    with pytest.raises(UserError, match="proposals: the two ways select other"):
        nms.run(WORK)
