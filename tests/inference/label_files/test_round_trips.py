"""Label files: what each format holds is read back by its own importer, on drawn scenes and on hard masks."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.inference.label_files import FORMATS, find_writer
from htc_tf.inference.output_names import name_files
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from pipelines import objects
from pipelines.checks import Counters
from pipelines.importers import cvat, labelme, labelstudio, yolo
from pipelines.importers.labeled import LabeledImage, LabeledObject
from pipelines.scenes import THINGS
from pipelines.shapes import make_scene

CATEGORIES = [{"id": 3 * index + 1, "name": name} for index, name in enumerate(THINGS)]
NAMES = ["cat", 'a "b" <c> & d', "\u732b \u00e9", "back\\slash: # %"]


def encode(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {**encoded, "counts": encoded["counts"].decode()}


def predict(image, masks, classes, categories=CATEGORIES):
    boxes = coco_mask.toBbox([encode(mask) for mask in masks]).reshape(-1, 4)
    boxes = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], axis=1)
    scores = np.linspace(0.9, 0.4, len(masks), dtype=np.float32)
    result = ImageResult(boxes.astype(np.float32), scores, np.int32(classes), [encode(mask) for mask in masks])
    return Prediction(image, result, categories)


def hard_masks():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:50, :60]
    disk = np.hypot(y - 24, x - 30)
    yield "full", np.ones((50, 60), bool)
    yield "pixel", (y == 49) & (x == 59)
    yield "diagonal", (y == x) & (y < 9)
    yield "ring", (disk < 20) & (disk > 8)
    yield "island", ((disk < 22) & (disk > 15)) | (disk < 6)
    yield "holes", (disk < 23) & ((y % 7 > 2) | (x % 9 > 3))
    yield "parts", (y % 20 < 12) & (x % 25 < 14)
    yield "border", (x < 13) | (y > 44)
    yield "noise", rng.random((50, 60)) < 0.5
    yield "line", (np.abs(y - x / 2) < 0.6)


@pytest.fixture
def save(tmp_path):
    """Returns save(format, {name: prediction}, tolerance), which writes the images and the format's files."""
    images = tmp_path / "images"

    def run(name, predictions, tolerance):
        for file_name, prediction in predictions.items():
            (images / file_name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(prediction.image).save(images / file_name)
        categories = next(iter(predictions.values())).categories
        writer = find_writer(name)(tmp_path / "out", categories, tolerance)
        files = name_files([images / file_name for file_name in predictions], [".png"] * len(predictions))
        for file, prediction in zip(files, predictions.values(), strict=True):
            writer.add(file, prediction)
        writer.close()
        saved = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert saved == set(writer.paths(files))
        return tmp_path / "out", images

    return run


def read_back(name, output, images):
    """Returns {file name: LabeledImage} as the format's importer reads it."""
    if name == "coco":
        return read_coco(output / "coco.json")
    if name == "labelme":
        found = [image for path in (output / "labelme").rglob("*.json") for image in labelme.read(path, images)]
    elif name == "cvat":
        found = list(cvat.read(output / "cvat.xml", images))
    elif name == "labelstudio":
        path = output / "labelstudio.json"
        tasks = json.loads(path.read_text())
        for task in tasks:  # as Label Studio does when a user submits its predictions
            task["annotations"] = task.pop("predictions")
        path.write_text(json.dumps(tasks))
        found = list(labelstudio.read(path, images))
    else:
        images.rename(output / "yolo" / "images")
        images = output / "yolo" / "images"
        found = [image for path in (output / "yolo" / "labels").rglob("*.txt") for image in yolo.read(path, images)]
    assert all(isinstance(image, LabeledImage) and not image.problems for image in found), found
    return {image.file_name: image for image in found}


def read_coco(path):
    content = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"])
    images = {}
    for image in content["images"]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        found = [LabeledObject(names[row["category_id"]], row.get("segmentation"), row["bbox"]) for row in rows]
        images[image["file_name"]] = LabeledImage(image["file_name"], image["height"], image["width"], found, [])
    return images


def check(image, prediction, least):
    """Checks the labels and the IoUs of an image's objects, and its size."""
    assert (image.height, image.width) == prediction.size
    assert [found.label for found in image.objects] == prediction.class_names
    for found, expected in zip(image.objects, prediction, strict=True):
        counts = objects.to_rle(found.segmentation, image.height, image.width, Counters())
        read = {"size": [image.height, image.width], "counts": counts}
        overlap = coco_mask.iou([read], [{**expected.run_lengths}], [0])[0, 0]
        assert overlap >= least, (expected, overlap)


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("name", FORMATS)
def test_scenes(save, name, tolerance):
    predictions = {}
    for index in range(4):
        scene = make_scene(7, "val2017", index)
        masks = [thing.mask for thing in scene.things]
        predictions[f"{index % 2}/scene {index}.png"] = predict(scene.image, masks, [t.label for t in scene.things])
    output, images = save(name, predictions, tolerance)
    found = read_back(name, output, images)
    assert set(found) == set(predictions)
    for file_name, prediction in predictions.items():
        check(found[file_name], prediction, 0.97 if tolerance else 1)


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("name", FORMATS)
def test_hard_masks(save, name, tolerance):
    masks = [mask for _, mask in hard_masks()]
    categories = [{"id": index, "name": text} for index, text in enumerate(NAMES)]
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    prediction = predict(image, masks, [index % 4 for index in range(len(masks))], categories)
    output, images = save(name, {"x <&> 'y'.png": prediction}, tolerance)
    check(read_back(name, output, images)["x <&> 'y'.png"], prediction, 0.97 if tolerance else 1)


@pytest.mark.parametrize("name", FORMATS)
def test_boxes_alone(save, name):
    """A model without mask heads gives boxes."""
    boxes = np.float32([[4, 6, 30, 40.5], [0, 0, 50, 60]])
    result = ImageResult(boxes, np.float32([0.9, 0.8]), np.int32([1, 0]), None)
    output, images = save(name, {"a.png": Prediction(np.zeros((50, 60, 3), np.uint8), result, CATEGORIES)}, 1)
    image = read_back(name, output, images)["a.png"]
    assert [found.label for found in image.objects] == [CATEGORIES[1]["name"], CATEGORIES[0]["name"]]
    for found, (y1, x1, y2, x2) in zip(image.objects, boxes.tolist(), strict=True):
        if found.segmentation is None:
            np.testing.assert_allclose(found.box, [x1, y1, x2 - x1, y2 - y1], atol=1e-3)
        else:
            corners = np.reshape(found.segmentation[0], (-1, 2))
            np.testing.assert_allclose([*corners.min(axis=0), *corners.max(axis=0)], [x1, y1, x2, y2], atol=1e-3)
