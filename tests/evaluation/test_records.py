"""Evaluation of records: metrics, drawings, records without semantic maps, and damaged ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.evaluation.records import detect_records, evaluate_records
from htc_tf.inference.detector import restore


@pytest.fixture(scope="module")
def detector(tiny_experiment, tiny_run):
    """A detector with batches of four, so that the last batch of six images has two padding rows."""
    return restore(tiny_experiment("NUM_STAGES=2", "eval/Input.batch_size=4"), tiny_run)


def test_records(detector, tiny_data, eagerly):
    info = load_info(tiny_data.records)
    metrics, results, drawings = evaluate_records(detector, info, drawings=8)
    assert {result["image_id"] for result in results} == set(range(1, 7))
    assert {result["category_id"] for result in results} <= set(info.category_ids)
    assert all(0 < result["score"] <= 1 for result in results)
    sizes = {result["image_id"]: result["segmentation"]["size"] for result in results}
    for result in results:
        height, width = sizes[result["image_id"]]
        x, y, w, h = result["bbox"]
        assert x >= 0 and y >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01
    assert min(min(size) for size in sizes.values()) >= 144
    # One drawing, ground truth beside prediction, for each image at its resized size; none for the padding rows.
    assert len(drawings) == 6 and all(drawing.dtype == np.uint8 for drawing in drawings)
    assert {max(drawing.shape[0], drawing.shape[1] // 2) >= 64 for drawing in drawings} == {True}
    assert metrics["per_class"].keys() == set(info.class_names)
    assert {"bbox/AP", "bbox/ARl", "segm/AP", "segm/AP75"} <= metrics.keys()
    # The annotation file has the same ground truth.
    again = evaluate_records(detector, info, str(tiny_data.annotations))[0]
    for name, value in metrics.items():
        if isinstance(value, float):
            assert again[name] == pytest.approx(value, abs=1e-6), name


def test_few_drawings(detector, tiny_data, eagerly):
    info = load_info(tiny_data.records)
    results, image_ids, drawings = detect_records(detector, info, drawings=3)
    assert len(drawings) == 3 and sorted(image_ids) == list(range(1, 7)) and results
    # A class whose name no font can draw is shown by its id.
    views = []
    for name in ("\U000e0fff".format, str):
        categories = tuple(dataclasses.replace(row, name=name(row.id)) for row in info.categories)
        views.append(detect_records(detector, dataclasses.replace(info, categories=categories), drawings=3)[2])
    assert all(np.array_equal(*pair) for pair in zip(*views, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(views[0], drawings, strict=True))


def test_records_without_stuff_maps(detector, tiny_data, tmp_path, eagerly):
    """Training with a semantic branch refuses them; detection needs no ground truth."""
    folder = shutil.copytree(tiny_data.records, tmp_path / "records")
    described = json.loads((folder / "dataset_info.json").read_text())
    described["stuff"] = {"present": False, "labels": 0}
    (folder / "dataset_info.json").write_text(json.dumps(described))
    assert detector.model.semantic_head is not None
    assert detect_records(detector, load_info(folder))[0] == detect_records(detector, load_info(tiny_data.records))[0]


def test_a_corrupt_record_is_named(detector, tiny_data, tmp_path, eagerly):
    records = Path(shutil.copytree(tiny_data.records, tmp_path / "records"))
    shard = sorted(records.glob("*.tfrecord"))[0]
    content = bytearray(shard.read_bytes())
    content[-20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=shard.name):
        detect_records(detector, load_info(records))
