"""The report: tables that line up, a folder that is whole, charts that show what they are given."""

import json

import numpy as np
import pytest
from PIL import Image

from htc_tf.evaluation.error_analysis import REASONS, ErrorSplit
from htc_tf.evaluation.evaluator import IOUS, evaluate
from htc_tf.evaluation.report import format_table, mean_precision, write_report
from htc_tf.visualization import charts
from htc_tf.visualization.palette import palette


def case(kinds=("bbox",)):
    truth = {
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
    return evaluate(truth, results, kinds=kinds)


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


def test_names_of_classes_do_not_break_the_table():
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


def test_the_mean_over_classes_leaves_out_what_is_undefined():
    table = np.zeros((10, 101, 3, 4, 3))
    table[:, :, 0], table[:, :, 1], table[:, :, 2] = 0.5, 0.75, -1
    np.testing.assert_allclose(mean_precision(table), 0.625)
    assert (mean_precision(table[:, :, 2:]) == -1).all()


def count_colour(picture, colour):
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= 2).sum())


def test_curves_lie_where_precision_is():
    table = np.full((10, 101), 0.25)
    picture = charts.draw_curves({"box": table}, IOUS)
    first = charts._fade(10)[0]
    rows = np.flatnonzero((np.abs(picture[:, 58 : 58 + charts.SIDE].astype(int) - first).max(axis=-1) < 9).sum(1) > 300)
    assert len(rows) and np.abs(rows - (52 + 0.75 * charts.SIDE)).max() < 3
    assert charts.draw_curves({"box": -np.ones((10, 101)), "mask": table}, IOUS).shape[1] > 1.8 * picture.shape[1]


def test_bars_are_as_long_as_prices():
    prices = dict.fromkeys(REASONS, 0.0) | {"class": 0.2, "missed": 0.1}
    picture = charts.draw_error_split({"box": ErrorSplit(0.5, dict.fromkeys(REASONS, 3), prices)})
    colours = palette(len(REASONS)).astype(int)
    areas = dict(zip(REASONS, (count_colour(picture, colour) for colour in colours), strict=True))
    assert areas["class"] == pytest.approx(2 * areas["missed"], rel=0.05) and areas["both"] == 0


TITLE = "mask: objects by rows, detections from score 0.3 by columns"


@pytest.mark.parametrize("classes", [1, 2, 80])
@pytest.mark.parametrize("name", ["x", "\u0436\u0443\u043a", "a quite long name of a class", "w" * 10_000])
def test_a_confusion_matrix_has_room_for_its_title_and_names(classes, name):
    """Ink ends before the sheet's edges, and the title is as long on any sheet."""
    matrix = np.eye(classes + 1, dtype=int)
    picture = charts.draw_confusion(matrix, [f"{name} {i}" for i in range(classes)], TITLE)
    ink = np.abs(picture.astype(int) - charts.PAPER).max(axis=-1) > 60
    edges = (ink[:, :4], ink[:, -4:], ink[:4], ink[-4:])
    assert not any(edge.any() for edge in edges)
    length = np.ptp(np.flatnonzero(ink[12:36].any(axis=0)))
    assert length == pytest.approx(charts.text_width(TITLE, 16), abs=4)
    assert max(picture.shape) < 1500


def test_a_class_without_letters_is_its_number():
    matrix = np.ones((3, 3), int)
    drawn = charts.draw_confusion(matrix, ["x", "\U000e0fff"], TITLE)
    np.testing.assert_array_equal(drawn, charts.draw_confusion(matrix, ["x", "1"], TITLE))


@pytest.mark.parametrize("classes", [1, 8, 80])
def test_confusions_of_many_classes_fit(classes):
    matrix = np.diag(np.append(np.full(classes, 5), 0))
    picture = charts.draw_confusion(matrix, [f"class {i}" for i in range(classes)])
    blue = count_colour(picture, charts._shade(1.0, True))
    cell = int(np.clip(620 / (classes + 1), 13, 52))
    assert 0.6 * classes * cell**2 < blue < classes * cell**2
    assert max(picture.shape) < 1500
    # What nothing is, and nothing is taken for, has no row.
    matrix[0, 0] = 0
    assert charts.draw_confusion(matrix, ["x"] * classes).shape[0] <= picture.shape[0]
