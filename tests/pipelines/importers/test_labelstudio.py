"""Label Studio's export: shapes, annotations of a task, references to images, and files from strangers."""

import json
import math

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask

from pipelines import to_coco
from pipelines.checks import Rejected
from pipelines.importers import labelstudio, outlines
from pipelines.importers.labeled import LabeledImage
from tests.pipelines.importers.brush_encoding import encode
from tests.pipelines.importers.conversion import read_left_out

HEIGHT, WIDTH = 40, 60
POINTS = [[10, 10], [50, 10], [50, 50]]


def add_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def result(kind="polygonlabels", labels=("cat",), size=(HEIGHT, WIDTH), fields=None, **value):
    value = value or {"points": POINTS}
    row = {"id": "r", "type": kind, "value": {**value, kind: list(labels)}, "image_rotation": 0}
    return row | {"original_height": size[0], "original_width": size[1]} | (fields or {})


def task(*results, image="/data/upload/1/0123abcd-a.png", **fields):
    return {"id": 7, "data": {"image": image}, "annotations": [{"id": 1, "result": list(results)}], **fields}


def read(folder, *tasks, content=None):
    """Returns what a file of these tasks yields."""
    path = folder / "project.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(tasks) if content is None else content))
    return list(labelstudio.read(path, folder))


def read_results(folder, *results):
    add_image(folder / "a.png")
    (found,) = read(folder, task(*results))
    assert isinstance(found, LabeledImage), found
    return found


def test_the_shapes(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:9, 3:20] = 1
    found = read_results(
        tmp_path,
        result(),
        result("rectanglelabels", ("dog",), x=50, y=25, width=20, height=10, rotation=0),
        result("rectanglelabels", ("dog",), x=50, y=25, width=20, height=10, rotation=90),
        result("ellipselabels", ("egg",), x=50, y=50, radiusX=10, radiusY=20, rotation=0),
        result("brushlabels", rle=encode(mask), format="rle"),
        result("keypointlabels", x=50, y=50, width=1),
        {"id": "c", "type": "choices", "value": {"choices": ["night"]}},
    )
    assert (found.file_name, found.height, found.width, found.split) == ("a.png", HEIGHT, WIDTH, None)
    assert [row.label for row in found.objects] == ["cat", "dog", "dog", "egg", "cat"]
    (polygon,), (box,), (turned,), (ellipse,), brush = (row.segmentation for row in found.objects)
    np.testing.assert_allclose(polygon, [6, 4, 30, 4, 30, 20])
    np.testing.assert_allclose(box, [30, 10, 42, 10, 42, 14, 30, 14])
    np.testing.assert_allclose(turned, [30, 10, 30, 22, 26, 22, 26, 10], atol=1e-9)  # about the top left, clockwise
    points = np.reshape(ellipse, (-1, 2))
    np.testing.assert_allclose(((points - (30, 20)) ** 2 / (6**2, 8**2)).sum(axis=1), 1)
    np.testing.assert_array_equal(coco_mask.decode(brush), mask)
    assert found.problems == ["a.png: results without an area: keypointlabels 1, choices 1"]


def test_turned_rectangles_agree_with_complex_numbers(tmp_path):
    rng = np.random.default_rng(0)
    for degrees in rng.uniform(0, 360, 20):
        x, y, wide, high = (float(value) for value in rng.uniform(5, 40, 4))
        row = result("rectanglelabels", x=x, y=y, width=wide, height=high, rotation=float(degrees))
        (found,) = read_results(tmp_path, row).objects
        start, turn = (
            complex(x * 0.6, y * 0.4),
            complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees))),
        )
        sides = [0, wide * 0.6, complex(wide * 0.6, high * 0.4), complex(0, high * 0.4)]
        corners = [start + turn * side for side in sides]
        expected = [value for corner in corners for value in (corner.real, corner.imag)]
        np.testing.assert_allclose(found.segmentation, [expected], atol=1e-9)


def test_a_label_in_a_result_of_its_own_counts_once(tmp_path):
    place = {"x": 10, "y": 10, "width": 20, "height": 20}
    shape = {"id": "r", "type": "rectangle", "value": place}
    label = {"id": "r", "type": "labels", "value": {**place, "labels": ["Car"]}}
    found = read_results(tmp_path, shape, label)
    assert [row.label for row in found.objects] == ["Car"] and found.problems == []
    found = read_results(tmp_path, {**shape, "id": "other"}, label)
    assert len(found.objects) == 1 and "its labels are []: one is needed" in found.problems[0]


def annotation(label, **fields):
    return {"result": [result(labels=(label,))], **fields}


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ([annotation("a"), annotation("b")], "b"),
        ([annotation("a", updated_at="2024-02-01T00:00:00Z"), annotation("b", updated_at="2024-01-01T00:00:00Z")], "a"),
        ([annotation("a", ground_truth=True), annotation("b", updated_at="2024-01-01T00:00:00Z")], "a"),
        ([annotation("a"), annotation("b", was_cancelled=True)], "a"),
    ],
)
def test_one_annotation_of_a_task_is_read(tmp_path, annotations, label):
    add_image(tmp_path / "a.png")
    (found,) = read(tmp_path, task(annotations=annotations))
    assert [row.label for row in found.objects] == [label]
    cancelled = any(row.get("was_cancelled") for row in annotations)
    assert found.problems == ([] if cancelled else ["a.png: 1 further annotations of the task"])


def test_tasks_without_a_valid_annotation(tmp_path):
    add_image(tmp_path / "a.png")
    empty, cancelled, none, predicted, bad = read(
        tmp_path,
        task(),
        task(annotations=[annotation("a", was_cancelled=True)]),
        task(annotations=[], id="x"),
        task(annotations=[], predictions=[annotation("a")]),
        task(annotations=3),
    )
    assert empty.objects == [] and (empty.height, empty.width) == (HEIGHT, WIDTH)  # submitted: an image of background
    assert cancelled.detail == "task 7: all of its annotations are canceled"
    assert none.detail == "task x: it has no annotation"
    assert predicted.detail.endswith("its predictions are no ground truth")
    assert bad.detail == "task 7: annotations are 3, not a list"


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        ("/data/upload/1/0123abcd-a.png", "0123abcd-a.png"),
        ("/data/upload/1/0123abcd-a.png", "images/0123abcd-a.png"),
        ("/data/upload/1/0123abcd-a%20b.png", "a b.png"),
        ("http://localhost:8080/data/upload/1/0123abcd-a.png", "a.png"),
        ("/data/local-files/?d=sets/birds/a.png", "birds/a.png"),
        ("http://localhost:8080/data/local-files/?d=sets%2Fa.png", "a.png"),
        ("/data/local-files/?d=C:\\sets\\birds\\a.png", "birds/a.png"),
        ("https://example.com/x/birds/a.png?token=1#top", "birds/a.png"),
        ("s3://bucket/birds/a.png", "images/a.png"),
        ("gs://bucket/what/a.png", "a.png"),
        ("birds/a?b#c.png", "birds/a?b#c.png"),
        ("../../birds/a.png", "birds/a.png"),
    ],
)
def test_references_to_an_image(tmp_path, reference, place):
    add_image(tmp_path / place)
    (found,) = read(tmp_path, task(result(), image=reference))
    assert found.file_name == place


def test_images_of_the_same_name_in_two_folders(tmp_path):
    for folder in ("one", "two"):
        add_image(tmp_path / folder / "a.png")
    found = read(tmp_path, *(task(image=f"/data/local-files/?d=x/{name}/a.png") for name in ("two", "one")))
    assert [row.file_name for row in found] == ["two/a.png", "one/a.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"frame": "a.png", "text": "no image"}, None),
        ({"frame": "a.png", "other": "b.png"}, "its data name 2 images"),
        ({"text": "no image"}, "its data name 0 images"),
        ({"image": "data:image/png;base64,AAAA"}, "not the name of a file"),
        ({"image": "/" * 10}, "the image ////////// is missing"),
        ({"image": "b.png"}, "b.png is missing"),
        ({"image": "http://[/a.png"}, None),
        ({"image": "a\0.png"}, "is missing"),
        ({"image": "/data/local-files/"}, "not the name of a file"),
        ([], "data are [], not an object"),
    ],
)
def test_the_image_in_the_data(tmp_path, data, message):
    add_image(tmp_path / "a.png")
    (found,) = read(tmp_path, {**task(result()), "data": data})
    if message is None:
        assert found.file_name == "a.png"
    else:
        assert isinstance(found, Rejected) and message in found.detail


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (3, "has no value"),
        ({"type": "polygonlabels", "value": []}, "has no value"),
        (result(labels=(), fields={"id": "other"}), "its labels are []: one is needed"),
        (result(labels=("a", "b")), 'its labels are ["a", "b"]: one is needed'),
        (result(labels=(3,)), "its label is 3, not a text in quotes"),
        (result(points=[[1, 2], [3, 4]]), "a polygon of 2 points"),
        (result(points=[[1, 2], [3, 4], [5]]), "not a list of [x, y]"),
        (result(points=[[1, 2], [3, 4], [5, "6"]]), "coordinates are not numbers"),
        (result(points=[[1, 2], [3, 4], [5, 10**400]]), "coordinates are not numbers"),
        (result(points=[[1, 2], [3, 4], [5, 900]]), "far outside"),
        (result(points=[[1, 2], [3, 4], [5, float("nan")]]), "coordinates are not numbers"),
        (result("rectanglelabels", x=1, y=2, height=3), "coordinates are not numbers"),
        (result("rectanglelabels", x=1, y=2, width=3, height=3, rotation="9"), "rotation is 9"),
        (result("rectanglelabels", x=1, y=2, width=3, height=3, rotation=1e9), "rotation is 1000000000.0"),
        (result("ellipselabels", x=1, y=2, radiusX=0, radiusY=3), "its radii are 0 and"),
        (result("brushlabels", rle=[0] * 20), "rle holds 0 values"),
        (result("brushlabels", rle=[1], format="png"), "its format is png"),
        (result(fields={"image_rotation": 90}), "the image is turned by 90"),
    ],
)
def test_a_bad_result_is_named_and_the_others_stay(tmp_path, row, message):
    found = read_results(tmp_path, result(), row)
    assert len(found.objects) == 1 and len(found.problems) == 1
    assert found.problems[0].startswith("a.png: result 1: ") and message in found.problems[0]


def test_a_relation_of_two_objects_is_no_defect(tmp_path):
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    found = read_results(tmp_path, result(), relation, relation)
    assert len(found.objects) == 1 and found.problems == ["a.png: results without an area: relation 2"]


def test_an_impossible_size_rejects_the_task(tmp_path):
    add_image(tmp_path / "a.png")
    for size, words in (
        ((10**9, 10**9), "1000000000 x 1000000000 are more than"),
        (("40x", 60), "original_height is 40x, original_width is 60; both must be the image's, in pixels"),
        ((-1, 60), "original_height is -1, "),
        ((6000, 6000), "the image's file 60 x 40, annotated 6000 x 6000"),
    ):
        (found,) = read(tmp_path, task(result(size=size)))
        assert isinstance(found, Rejected) and found.detail.startswith(f"task 7: {words}")


def test_a_size_in_another_notation_and_the_place_of_each_object(tmp_path):
    found = read_results(tmp_path, result(labels=()), result(size=("40", 60.0)))
    assert (found.height, found.width) == (HEIGHT, WIDTH)
    assert [row.place for row in found.objects] == [f"{tmp_path}/project.json: a.png: result 1"]


def test_a_brush_of_too_many_runs_is_named_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(outlines, "MAX_RUNS", 100)
    rows = np.zeros((HEIGHT, WIDTH), np.uint8)
    rows[::2] = 1
    found = read_results(tmp_path, result("brushlabels", rle=encode(rows), format="rle"), result())
    assert len(found.objects) == 1 and found.problems[0].startswith("a.png: result 0: masks of more than 100 runs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not a list of Label Studio's tasks"),
        ([1], "not a list of Label Studio's tasks"),
        ({"images": []}, "its tasks have no 'data'"),
        ([{"id": 1, "image": "a.png", "label": []}], "choose the export JSON, not JSON-MIN"),
    ],
)
def test_another_file_is_rejected(tmp_path, content, message):
    with pytest.raises(Rejected, match=message):
        read(tmp_path, content=content)


def test_the_conversion_to_coco(tmp_path):
    folder = tmp_path / "export"
    add_image(folder / "a.png")
    read(folder, task(result(), result("brushlabels", ("dog",), rle=encode(np.ones((HEIGHT, WIDTH))))), task())
    flags = ["--input", str(folder), "--output", str(tmp_path / "coco"), "--val_fraction", "0"]
    to_coco.main(["--from", "labelstudio", *flags])
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [row["name"] for row in content["categories"]] == ["cat", "dog"]
    assert [row["area"] for row in content["annotations"]][1] == HEIGHT * WIDTH
    (line,) = read_left_out(tmp_path / "coco")
    assert line.endswith("project.json: another entry describes the image a.png")
