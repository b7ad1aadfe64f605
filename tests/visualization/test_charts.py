"""Charts show the numbers that they are given, and hold names of any length and script."""

import io

import numpy as np
import pytest
from PIL import Image

from htc_tf.visualization import charts

IOUS = np.linspace(0.5, 0.95, 10)
TITLE = "mask: objects by rows, detections from score 0.3 by columns"
KINDS = ("class", "location", "both", "duplicate", "background", "missed")


def pixels(figure):
    """[H, W, 3] uint8, as the saved file has them."""
    file = io.BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file).convert("RGB"))


def test_curves_are_the_precisions():
    table = np.linspace(0.9, 0.1, 10)[:, np.newaxis] * np.linspace(1, 0, 101)
    figure = charts.draw_curves({"box": -np.ones((10, 101)), "mask": table}, IOUS)
    empty, full = figure.axes
    assert not empty.lines and empty.get_title("left") == "box: nothing to find"
    assert full.get_title("left") == f"mask: AP {table.mean():.3f}"
    for line, row, iou in zip(full.lines, table, IOUS, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), row)
        assert line.get_label().split() == [f"{iou:.2f}", f"{row.mean():.2f}"]
    assert pixels(figure).std() > 0


def test_bars_are_as_long_as_costs():
    costs = dict.fromkeys(KINDS, 0.0) | {"class": 0.2, "missed": 0.1, "both": -0.01}
    counts = dict(zip(KINDS, range(6), strict=True))
    figure = charts.draw_error_costs({"box": (0.5, counts, costs), "mask": (-1, counts, dict.fromkeys(KINDS, 0.0))})
    box, mask = figure.axes
    assert box.get_title("left") == "box: AP50 0.500" and mask.get_title("left") == "mask: nothing to find"
    bars = dict(zip(KINDS, [bar.get_width() for bar in box.patches[6:]], strict=True))
    assert bars == dict.fromkeys(KINDS, 0.0) | {"class": 0.2, "missed": 0.1}
    assert [text.get_text() for text in box.texts][:4] == ["+0.200", "0", "+0.000", "1"]


def test_cells_are_shares_of_their_rows():
    matrix = np.array([[6, 2, 0, 2], [0, 0, 0, 0], [0, 0, 3, 0], [1, 0, 3, 0]])
    (axes,) = charts.draw_confusion(matrix, ["a", "b", "c"], TITLE).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c", "missed"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a  10", "b  0", "c  3", "background  4"]
    texts = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): ".60", (0, 1): ".20", (0, 3): ".20", (2, 2): "1.00", (3, 0): ".25", (3, 2): ".75"}
    right, wrong = (np.ma.getmaskarray(image.get_array()) for image in axes.images)
    np.testing.assert_array_equal(~right, np.diag([True, True, True, False]))
    np.testing.assert_array_equal(wrong, ~right)


def test_classes_without_objects_and_detections_are_left_out():
    matrix = np.diag([5, 0, 5, 0])
    (axes,) = charts.draw_confusion(matrix, ["a", "b", "c"]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "c", "missed"]


@pytest.mark.parametrize("classes", [1, 2, 80])
@pytest.mark.parametrize("name", ["x", "\u0436\u0443\u043a", "$a^2$", "w" * 10_000])
def test_a_confusion_matrix_has_room_for_its_title_and_names(classes, name):
    matrix = np.eye(classes + 1, dtype=int)
    picture = pixels(charts.draw_confusion(matrix, [f"{name} {i}" for i in range(classes)], TITLE))
    ink = np.abs(picture.astype(int) - picture[-1, -1]).max(axis=-1) > 60
    assert not any(edge.any() for edge in (ink[:, :2], ink[:, -2:], ink[:2], ink[-2:]))
    assert max(picture.shape) < 1500


def test_a_class_without_letters_is_its_number():
    (axes,) = charts.draw_confusion(np.ones((3, 3), int), ["x", "\U000e0fff"], TITLE).axes
    assert axes.get_xticklabels()[1].get_text() == "1"
