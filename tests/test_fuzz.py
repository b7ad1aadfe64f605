"""Readers of foreign files: the corpus of faults that were found, and random input by hypothesis (also: make fuzz)."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf import config
from htc_tf.data import annotations
from htc_tf.errors import UserError
from htc_tf.ops.rle_decoding import decode_counts, is_valid_rle
from pipelines import objects
from pipelines.checks import Rejected
from tests import fuzz

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

TINY = str(Path(__file__).with_name("tiny.gin"))
# The same examples each time, however busy the machine is.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("fixed")


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_the_corpus_is_read_or_refused(target):
    fuzz.warm_up(target)
    failures = {data[:40]: fuzz.attempt(fuzz.TARGETS[target], data) for data in fuzz.seeds(target)}
    assert failures and not {data: failure for data, failure in failures.items() if failure}


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in fuzz.CORPUS.rglob("*") if path.is_file()]
    assert len(sizes) >= 20 and max(sizes) <= fuzz.MAX_BYTES and sum(sizes) < 1e5


def test_a_fault_is_found_and_kept(tmp_path):
    def broken(data):
        if b"\xff" in data:
            raise IndexError("out of range")
        raise UserError("refused")

    tried, failures = fuzz.fuzz("brush", 0.5, 1, tmp_path, {"brush": broken})
    ((failure, path),) = failures.items()
    assert tried > 1 and failure == "IndexError: out of range" and b"\xff" in path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_work_without_an_end_is_a_fault(monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS_PER_INPUT", 0.05)

    def endless(data):
        while True:
            pass

    assert fuzz.attempt(endless, b"").startswith("TimeoutError: more than 0.05 CPU-seconds")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("12"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.dictionaries(
    st.sampled_from(["id", "image_id", "category_id", "iscrowd", "bbox", "segmentation", "height", "width", "name"]),
    JSON,
)
CONTENT = st.fixed_dictionaries({}, optional={name: st.lists(ENTRY, max_size=3) | JSON for name in annotations.LISTS})


@given(CONTENT)
def test_annotation_files_are_repaired_once(content):
    data = json.dumps(content).encode()
    loaded = annotations.load(io.BytesIO(data), "x.json", Counter())
    annotations.repair(loaded, Counter())
    before, again = json.dumps(loaded), Counter()
    annotations.repair(loaded, again)
    assert json.dumps(loaded) == before and not +again


@given(st.data())
def test_run_lengths_of_masks(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    bits = data.draw(st.binary(min_size=height * width, max_size=height * width))
    mask = (np.frombuffer(bits, np.uint8) & 1).reshape(height, width)
    counts = coco_mask.encode(np.asfortranarray(mask))["counts"]
    runs = decode_counts(counts)
    assert is_valid_rle({"size": [height, width], "counts": counts}, height, width)
    np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.ravel(order="F"))


NUMBER = st.floats(-100, 100) | st.integers(-10, 60) | st.sampled_from([float("nan"), float("inf"), 1e300, "3", None])
POLYGON = st.lists(st.floats(-10, 50) | NUMBER, max_size=12)


@given(st.lists(POLYGON, max_size=3) | JSON)
def test_outlines_become_run_lengths_of_the_image_or_are_rejected(segmentation):
    try:
        counts = objects.to_rle(segmentation, 24, 32, Counter())
    except Rejected:
        return
    assert is_valid_rle({"size": [24, 32], "counts": counts}, 24, 32)


@given(st.lists(NUMBER, max_size=5) | JSON)
def test_boxes_lie_inside_the_image_or_are_rejected(box):
    try:
        ymin, xmin, ymax, xmax = objects.clip_box(box, 24, 32, Counter())
    except Rejected:
        return
    assert 0 <= ymin < ymax <= 24 and 0 <= xmin < xmax <= 32, (ymin, xmin, ymax, xmax)


MACROS = st.sampled_from(["STEPS", "BATCH_SIZE", "NUM_STAGES", "Experiment.clip_norm", "PRECISION", "Postprocess.keep"])
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=40)
@given(MACROS, VALUES)
def test_values_of_gin_load_or_are_refused_in_one_line(name, value):
    try:
        config.load([TINY], [f"{name} = {value!r}"])
    except UserError as error:
        assert str(error).strip()


@settings(max_examples=40)
@given(st.text(max_size=30))
def test_text_as_a_gin_parameter_loads_or_is_refused(text):
    try:
        config.load([TINY], [text])
    except UserError as error:
        assert str(error).strip()
