"""The evaluation report: aligned tables, and a folder with its text and charts."""

import json

import numpy as np
import pytest
from PIL import Image

from htc_tf.evaluation.evaluator import evaluate
from htc_tf.evaluation.report import format_table, mean_precision, write_report


def case(kinds=("bbox",)):
    ground_truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}, {"id": 3, "name": "star"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [60, 60, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [60, 60, 20, 20], "score": 0.8},
    ]
    return evaluate(ground_truth, results, kinds=kinds)


def test_tables():
    lines = [line for line in format_table(case().metrics).splitlines() if line]
    assert lines[0].split("|")[2:4] == ["    AP ", "  AP50 "] and lines[1].startswith("| :--")
    bare = [line.replace(" ", "") for line in lines]
    assert bare[2].startswith("|box|0.500|0.500|") and bare[3].startswith("|APatIoU|0.50|0.55|")
    assert bare[8:11] == [
        "|square|1|1.000|1.000|1.000|",
        "|disc|1|0.000|0.000|0.000|",
        "|star|0|–|–|–|",
    ]
    assert bare[11].startswith("-1of3classes")
    for table in (lines[:3], lines[3:6], lines[6:11]):
        assert len({len(line) for line in table}) == 1


def test_class_names_do_not_break_the_table():
    metrics = case().metrics
    names = ["a\nb\x1b[31m|", "w" * 10_000, "\u732b"]
    metrics["per_class"] = dict(zip(names, metrics["per_class"].values(), strict=True))
    lines = format_table(metrics).split("\n")
    rows = [line for line in lines if line.startswith(("| a", "| w", "| \u732b"))]
    assert [row.split()[1:3] for row in rows] == [["a", "b[31m\\|"], ["w" * 39 + "…", "|"], ["\u732b", "|"]]
    assert max(map(len, lines)) < 200


def test_folder(tmp_path):
    evaluation = case()
    shown = write_report(evaluation, tmp_path / "new" / "report")
    assert json.loads(json.dumps(shown)) == shown
    assert shown["errors"]["bbox"]["class"] == {"count": 1, "AP50": pytest.approx(0.5)}
    assert shown["confusion"]["bbox"]["matrix"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    files = {path.name: path for path in (tmp_path / "new" / "report").iterdir()}
    assert set(files) == {"report.md", "precision_recall.png", "errors.png", "confusion_box.png"}
    text = files["report.md"].read_text()
    assert format_table(evaluation.metrics) in text and "| class " in text and "mask" not in text
    for name in set(files) - {"report.md"}:
        assert f"({name})" in text and min(Image.open(files[name]).size) > 100


def test_the_mean_over_classes_leaves_out_undefined_values():
    table = np.zeros((10, 101, 3, 4, 3))
    table[:, :, 0], table[:, :, 1], table[:, :, 2] = 0.5, 0.75, -1
    np.testing.assert_allclose(mean_precision(table), 0.625)
    assert (mean_precision(table[:, :, 2:]) == -1).all()
