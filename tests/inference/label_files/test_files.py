"""Label files: names, escaping, interruptions, and what a format cannot hold."""

import base64
import contextlib
import io
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.errors import UserError
from htc_tf.inference.inputs import Url
from htc_tf.inference.label_files import (
    NotSaved,
    brush,
    coco,
    cvat,
    find_writer,
    labelme,
    labelstudio,
    predictions,
    yolo,
)
from htc_tf.inference.label_files.list_file import replace_file
from htc_tf.inference.label_files.masks import count_runs, crop_mask
from htc_tf.inference.output_names import name_files
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from htc_tf.ops.polygons import Polygon
from pipelines.importers import brush as importer

CATEGORIES = [{"id": 5, "name": "car"}]


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {**encoded, "counts": encoded["counts"].decode()}


@pytest.fixture
def prediction():
    masks = np.zeros((2, 40, 50), bool)
    masks[0, 5:20, 10:30] = masks[1, 30:38, 2:9] = masks[1, 30:38, 20:24] = True
    masks[1, 33:35, 4:6] = False
    boxes = np.float32([[5, 10, 20, 30], [30, 2, 38, 24]])
    result = ImageResult(boxes, np.float32([0.9, 0.5]), np.int32([0, 0]), [encode(mask) for mask in masks])
    return Prediction(np.full((40, 50, 3), 7, np.uint8), result, CATEGORIES)


def files_of(*paths):
    return name_files([path if isinstance(path, Url) else Path(path) for path in paths], [".png"] * len(paths))


def test_names_are_relative_to_the_folder_that_all_inputs_share():
    files = files_of("/data/a/1.jpg", "/data/b/1.jpg", "/data/b/1.png", "/data/b/c d/x.y.JPG")
    assert [file.name for file in files] == ["a/1.jpg", "b/1.jpg", "b/1.png", "b/c d/x.y.JPG"]
    assert [file.stem for file in files] == ["a/1", "b/1", "b/1_2", "b/c d/x.y"]
    assert [file.name for file in files_of("/data/1.jpg")] == ["1.jpg"]
    assert [file.name for file in files_of(Url("https://host/deep/u.jpg?x=1"), "/data/a/1.jpg")] == ["u.jpg", "1.jpg"]
    name = "w" * 250
    assert len(files_of(f"/{'d' * 200}/{name}.jpg", "/x.jpg")[0].stem) == 200 + 1 + 230


def test_results_and_labels_name_an_image_alike(tmp_path, prediction):
    """predictions.json had the name alone, so that images of two folders could not be told apart."""
    files = files_of("/data/a/1.jpg", "/data/b/1.jpg")
    for module in (coco, predictions):
        with contextlib.closing(module.Writer(tmp_path, CATEGORIES, 1)) as writer:
            for file in files:
                writer.add(file, prediction)
    images = {row["id"]: row["file_name"] for row in json.loads((tmp_path / "coco.json").read_text())["images"]}
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert {row["image_id"]: row["file_name"] for row in results} == images
    assert sorted(images.values()) == ["a/1.jpg", "b/1.jpg"]


def test_places_in_very_wide_images():
    """CVAT's points had six digits."""
    prediction = Prediction(
        np.zeros((4, 9, 3), np.uint8),
        ImageResult(np.float32([[1, 1, 3, 3]]), np.float32([0.9]), np.int32([0]), [encode(np.ones((4, 9)))]),
        CATEGORIES,
    )
    corners = np.array([[1_234_567.5, 1], [1_234_577.5, 1], [1_234_577.5, 3]])
    assert 'points="1234567.5,1;1234577.5,1;1234577.5,3"' in cvat.describe(prediction[0], [Polygon(corners, [])])


def test_two_images_of_one_stem(tmp_path, prediction):
    """LabelMe's files name their image; YOLO's are found by the image's name, so the second is refused."""
    files = files_of("/data/1.jpg", "/data/1.png")
    for module in (labelme, yolo, coco, cvat, labelstudio):
        with contextlib.closing(module.Writer(tmp_path, CATEGORIES, 1)) as writer:
            writer.add(files[0], prediction)
            if module is yolo:
                with pytest.raises(NotSaved, match="another one has the same"):
                    writer.add(files[1], prediction)
            else:
                writer.add(files[1], prediction)
    assert sorted(os.listdir(tmp_path / "labelme")) == ["1.json", "1_2.json"]
    paths = [json.loads((tmp_path / "labelme" / name).read_text())["imagePath"] for name in ("1.json", "1_2.json")]
    assert [os.path.normpath(tmp_path / "labelme" / path) for path in paths] == ["/data/1.jpg", "/data/1.png"]
    assert os.listdir(tmp_path / "yolo" / "labels") == ["1.txt"]
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [row["file_name"] for row in content["images"]] == ["1.jpg", "1.png"] and len(content["annotations"]) == 4
    assert len({row["id"] for row in content["images"]}) == 2


@pytest.mark.parametrize("name", ["coco", "cvat", "labelstudio", "predictions"])
@pytest.mark.parametrize("count", [0, 1])
def test_files_are_whole_after_an_interruption(tmp_path, prediction, name, count):
    def work():
        with contextlib.closing(find_writer(name)(tmp_path, CATEGORIES, 1)) as writer:
            for file in files_of("/data/1.jpg", "/data/2.jpg")[:count]:
                writer.add(file, prediction)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    path = tmp_path / {"cvat": "cvat.xml"}.get(name, f"{name}.json")
    if name == "cvat":
        assert len(ElementTree.parse(path).findall("image")) == count
    else:
        content = json.loads(path.read_text())
        if name == "coco":
            assert len(content["annotations"]) == 2 * count and len(content["images"]) == count
        else:
            assert len(content) == count * {"predictions": 2}.get(name, 1)


def test_text_of_any_kind_is_escaped(tmp_path, prediction):
    name = 'a "b" <c>&amp; \x01 \ud800 no: [x]'
    categories = [{"id": 1, "name": name}]
    found = Prediction(prediction.image, prediction.result, categories)
    for module in (cvat, labelstudio, yolo, coco, labelme):
        with contextlib.closing(module.Writer(tmp_path, categories, 1)) as writer:
            writer.add(files_of("/data/a&'<b>.jpg")[0], found)
    clean = 'a "b" <c>&amp; \ufffd \ufffd no: [x]'
    root = ElementTree.parse(tmp_path / "cvat.xml")
    assert root.find("meta/task/labels/label/name").text == clean == root.find("image/polygon").get("label")
    assert root.find("image").get("name") == "a&'<b>.jpg"
    interface = ElementTree.parse(tmp_path / "labelstudio.xml")
    (task,) = json.loads((tmp_path / "labelstudio.json").read_text())
    assert {label.get("value") for label in interface.iter("Label")} == {clean}
    results = task["predictions"][0]["result"]
    assert [row["value"][row["type"]] for row in results] == [[clean]] * 2
    controls = {(control.get("name"), control.tag.lower()) for control in interface.getroot() if control.get("toName")}
    assert {(row["from_name"], row["type"]) for row in results} <= controls
    assert task["data"]["image"] == "/data/local-files/?d=a%26%27%3Cb%3E.jpg"
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())["names"] == {0: clean.replace("\ufffd", " ")}


def test_a_name_that_xml_cannot_hold(tmp_path, prediction):
    with contextlib.closing(cvat.Writer(tmp_path, CATEGORIES, 1)) as writer:
        for name in ("\x01.jpg", "\udcff.jpg"):
            with pytest.raises(NotSaved, match="rename it"):
                writer.add(files_of(f"/data/{name}")[0], prediction)


def test_shapes_by_kind(tmp_path, prediction):
    """Tools without polygons with holes get a mask for an object with one; YOLO and COCO join the hole by a bridge."""
    labelme.write_labels(tmp_path / "x.json", prediction, 1)
    content = json.loads((tmp_path / "x.json").read_text())
    assert [shape["shape_type"] for shape in content["shapes"]] == ["polygon", "mask"]
    assert content["shapes"][1]["points"] == [[2, 30], [23, 37]] and content["shapes"][0]["score"] == 0.9
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["shapes"][1]["mask"]))))
    np.testing.assert_array_equal(mask, prediction.masks[1][30:38, 2:24])
    # Without an image file, the pixels are in the file.
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["imageData"]))))
    np.testing.assert_array_equal(pixels, prediction.image)
    labelme.write_labels(tmp_path / "x.json", prediction, 1, tmp_path / "photos" / "x.jpg")
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["imagePath"] == "photos/x.jpg" and content["imageData"] is None
    (tmp_path / "link.jpg").symlink_to(tmp_path / "x.json")
    with pytest.raises(UserError, match="is the image itself"):
        labelme.write_labels(tmp_path / "x.json", prediction, 1, tmp_path / "link.jpg")
    overview = Prediction(prediction.image, prediction.result, CATEGORIES, (80, 100))
    with pytest.raises(UserError, match="give image_path"):
        labelme.write_labels(tmp_path / "y.json", overview, 1)


@pytest.mark.parametrize("seed", range(4))
def test_masks(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((30, 40), bool)
    y, x, height, width = rng.integers(1, 15, 4)
    mask[y : y + height, x : x + width] = rng.random((height, width)) < 0.6
    mask[y, x] = True
    top, left, part = crop_mask(encode(mask))
    rows, columns = np.nonzero(mask)
    np.testing.assert_array_equal(part, mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    assert (top, left) == (rows.min(), columns.min())
    runs = count_runs(part)
    np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(part.shape), part)
    np.testing.assert_array_equal(importer.decode(brush.encode(encode(mask)), 30, 40), mask)


def test_brush_of_long_runs():
    mask = np.zeros((300, 400), bool)
    mask[100:, 1:] = mask[:2] = True
    np.testing.assert_array_equal(importer.decode(brush.encode(encode(mask)), 300, 400), mask)


def test_files_are_written_whole_or_not_at_all(tmp_path):
    replace_file(tmp_path / "new" / "x.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(tmp_path / "new" / "x.txt", "\ud800")
    assert os.listdir(tmp_path / "new") == ["x.txt"] and (tmp_path / "new" / "x.txt").read_text() == "old"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        replace_file(tmp_path / "file" / "x.txt", "")
