"""The benchmarks of operations time every variant once all of them return the same."""

import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from tests.benchmarks import machine, operations
from tests.benchmarks.operations import PoolingCase

FLAGS = SimpleNamespace(height=100, width=120, batch=2, precision="float32", repeats=2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    values = {"LEVELS": 2, "CANDIDATES": 30, "CENTERS": 4, "BOXES": 60, "CLASSES": 5, "OBJECTS": 6, "CHANNELS": 4}
    values |= {"KEEP": {"proposals": 20, "final": 10}, "CASES": (PoolingCase(4, 3, True),)}
    for name, value in values.items():
        monkeypatch.setattr(operations, name, value)
    monkeypatch.setattr(operations, "copy_rate", lambda: machine.copy_rate(2**16))


def test_nms():
    found = operations.run_nms(FLAGS)
    details = json.loads(json.dumps(found.details))
    rows = [f"{part}, {way}" for part in operations.KEEP for way in ("graph", "XLA")]
    assert all(details[row]["cpu_seconds"]["median"] > 0 for row in rows)
    assert details[rows[0]]["cpu_seconds"] == found.cpu_seconds
    # Boxes and scores in float32, and a byte of validity.
    assert details[rows[0]]["share_of_the_limit"]["amount"] == 2 * 2 * 30 * (4 * 4 + 4 + 1)


def test_different_proposals_are_an_error(monkeypatch):
    select = operations.select_proposals

    def differ(boxes, scores, valid, threshold, keep, way):
        return select(boxes, scores, valid, threshold if way == "xla" else 0.0, keep, way)

    monkeypatch.setattr(operations, "select_proposals", differ)
    with pytest.raises(UserError, match="proposals: the two implementations select different"):
        operations.run_nms(FLAGS)


def test_postprocess():
    found = operations.run_postprocess(FLAGS)
    assert found.unit == "image" and 0 < found.cpu_seconds["median"] < 10
    details = json.loads(json.dumps(found.details))
    assert details["XLA"]["median"] > 0 and details["share of the limit"]["unit"] == "B"
    # Three stages' logits and the boxes of an image, in float32.
    assert details["share of the limit"]["amount"] == 4 * (3 * 60 * 6 + 60 * 4)


def use_three_taps(monkeypatch):
    """Leaves less to compile."""
    module = operations.ops.roi_align_xla
    monkeypatch.setattr(module, "_ON_CPU", module._ON_CPU._replace(taps=(3,)))


@pytest.mark.slow
def test_roi_align(monkeypatch):
    use_three_taps(monkeypatch)
    found = operations.run_roi_align(SimpleNamespace(height=64, width=96, batch=1, repeats=1))
    details = json.loads(json.dumps(found.details))
    ways = [(r, w) for r in operations.RATIOS for w in operations.IMPLEMENTATIONS]
    rows = [f"4 at 3 x 3, {ratio}, {way}, forward and backward" for ratio, way in ways]
    assert all(details[row]["cpu_seconds"]["median"] > 0 for row in rows)
    assert details[rows[0]]["cpu_seconds"] == found.cpu_seconds
    assert details["maps prepared, XLA"]["cpu_seconds"]["median"] > 0


def test_different_features_are_an_error(monkeypatch):
    monkeypatch.setattr(operations, "CASES", (PoolingCase(5, 2, False),))
    use_three_taps(monkeypatch)
    prepare = operations.ops.prepare
    shifted = lambda maps, name: prepare([m + (name == "xla") for m in maps], name)  # noqa: E731
    monkeypatch.setattr(operations.ops, "prepare", shifted)
    with pytest.raises(UserError, match="5 at 2 x 2, adaptive: the two implementations differ"):
        operations.run_roi_align(SimpleNamespace(height=64, width=96, batch=1, repeats=1))


def test_bytes_of_roi_align():
    # 14 by 28 pixels are 3.5 by 7 cells of the map of stride 4: they touch 5 by 8 at most.
    boxes = tf.constant([[[0.0, 0, 14, 28]]])
    assert operations.bytes_touched(boxes, PoolingCase(1, 2, False), 0) == 4 * 4 * (5 * 8 + 4)
    assert operations.bytes_touched(boxes, PoolingCase(1, 2, True), 2) == 4 * 4 * (3 * 5 * 8 + 2 * 4)
    # One bin with two samples on each axis: four cells.
    assert operations.bytes_touched(boxes, PoolingCase(1, 1, False), 2) == 4 * 4 * (4 * 4 + 1)
