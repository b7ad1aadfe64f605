"""The benchmark of RoIAlign times every variant of every case, and none before both implementations agree."""

import json

import pytest
import tensorflow as tf

from htc_tf.benchmarks import machine, roi_align
from htc_tf.benchmarks.measure import Work, format_table
from htc_tf.errors import UserError

WORK = Work(64, 96, 1, "float32", None, 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(roi_align, "CHANNELS", 4)
    monkeypatch.setattr(roi_align, "CASES", (roi_align.EvalInputs(4, 3, True),))
    monkeypatch.setattr(roi_align.ops.roi_align_xla, "_TAPS", (3,))  # less to compile
    monkeypatch.setattr(roi_align, "copy_rate", lambda: machine.copy_rate(2**16))


def test_every_variant_is_measured():
    found = roi_align.run(WORK)
    details = json.loads(json.dumps(found.details))
    rows = [f"4 at 3 x 3, {r}, {w}, forward and backward" for r in roi_align.RATIOS for w in roi_align.IMPLEMENTATIONS]
    assert all(details[row]["cpu_seconds"]["median"] > 0 for row in rows)
    assert details[rows[0]]["cpu_seconds"] == found.cpu_seconds
    assert "maps prepared, XLA " in format_table("roi_align", WORK, found)


def test_a_difference_is_an_error(monkeypatch):
    monkeypatch.setattr(roi_align, "CASES", (roi_align.EvalInputs(5, 2, False),))
    prepare = roi_align.ops.prepare
    monkeypatch.setattr(roi_align.ops, "prepare", lambda maps, name: prepare([m + (name == "xla") for m in maps], name))
    with pytest.raises(UserError, match="5 at 2 x 2, adaptive: the two implementations differ"):
        roi_align.run(WORK)


def test_bytes():
    # 14 by 28 pixels are 3.5 by 7 cells of the map of stride 4: they touch 5 by 8 at most.
    boxes = tf.constant([[[0.0, 0, 14, 28]]])
    assert roi_align.count_bytes(boxes, roi_align.EvalInputs(1, 2, False), 0) == 4 * 4 * (5 * 8 + 4)
    assert roi_align.count_bytes(boxes, roi_align.EvalInputs(1, 2, True), 2) == 4 * 4 * (3 * 5 * 8 + 2 * 4)
    # One bin with two samples on each axis: four cells.
    assert roi_align.count_bytes(boxes, roi_align.EvalInputs(1, 1, False), 2) == 4 * 4 * (4 * 4 + 1)
