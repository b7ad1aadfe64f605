"""The dataset browser over HTTP: filters, ground truth, image files and augmented images."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from htc_tf.data.datasets import coco_from_records, load_info
from htc_tf.web.augmenter import Augmenter
from htc_tf.web.dataset_browser import DatasetBrowser
from htc_tf.web.record_index import RecordIndex


@pytest.fixture(scope="module")
def index(tiny_data):
    index = RecordIndex(load_info(tiny_data.records))
    index.start()
    index.wait()
    return index


@pytest.fixture(scope="module")
def truth(index):
    return coco_from_records(index.info)


@pytest.fixture
def browser_server(serve, index):
    return serve(DatasetBrowser(index).routes, "browser.html")


def test_the_dataset_is_described(browser_server, ask, index, truth):
    described = ask(browser_server, "/api/dataset").body
    assert described["images"] == described["indexed"] == 6 and described["done"] and not described["problem"]
    assert sum(one["objects"] for one in described["classes"]) == len(truth["annotations"]) == described["objects"]
    assert described["augmentations"] is None
    assert ask(browser_server, "/").body.startswith(b"<!doctype html>")


def test_filters(browser_server, ask, truth):
    def found(query):
        return ask(browser_server, f"/api/images?{query}").body

    ids = [image["id"] for image in truth["images"]]
    for category in {annotation["category_id"] for annotation in truth["annotations"]}:
        holders = {a["image_id"] for a in truth["annotations"] if a["category_id"] == category}
        expected = [place for place, image_id in enumerate(ids) if image_id in holders]
        assert found(f"class={category}") == {"total": len(expected), "positions": expected}
    assert found("") == {"total": 6, "positions": list(range(6))}
    assert found("from=4&count=1") == {"total": 6, "positions": [4]}
    assert found(f"id={ids[3]}")["positions"] == [3]
    assert found("class=none")["total"] == 1


@pytest.mark.parametrize("query", ["class=99", "size=huge", "id=first"])
def test_invalid_filters(browser_server, ask, query):
    answer = ask(browser_server, f"/api/images?{query}")
    assert answer.status == 400 and query.partition("=")[2] in answer.body["error"]


def test_ground_truth_and_image_files(browser_server, ask, truth, index):
    for place, image in enumerate(truth["images"]):
        shown = ask(browser_server, f"/api/images/{place}").body
        assert {name: shown[name] for name in image} == image
        expected = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        assert len(shown["objects"]) == len(expected)
        for item, annotation in zip(shown["objects"], expected, strict=True):
            names = ("id", "category_id", "iscrowd", "segmentation")
            assert [item[name] for name in names] == [annotation[name] for name in names]
            np.testing.assert_allclose(item["bbox"], annotation["bbox"], atol=0.01)
    image_file, small = (ask(browser_server, f"/api/images/2/{name}") for name in ("file", "thumbnail"))
    assert image_file.headers["Content-Type"] == small.headers["Content-Type"] == "image/jpeg"
    size = truth["images"][2]["width"], truth["images"][2]["height"]
    assert Image.open(io.BytesIO(image_file.body)).size == size
    assert max(Image.open(io.BytesIO(small.body)).size) <= 440
    assert ask(browser_server, "/api/images/6").status == 400
    assert "--gin_file" in ask(browser_server, "/api/images/2/augmented/0").body["error"]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_stored_images_are_not_rotated(monkeypatch, index, form):
    """Records mean their pixels as stored; a browser would rotate a file by its EXIF orientation."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels).save(file, form, exif=exif)
    stored = SimpleNamespace(image=SimpleNamespace(encoded=file.getvalue(), filename="a.jpg"))
    monkeypatch.setattr(DatasetBrowser, "unpack", lambda self, place: stored)
    shown, small = (getattr(DatasetBrowser(index), name)(None, 0) for name in ("file", "thumbnail"))
    for reply in (shown, small):
        image = Image.open(io.BytesIO(reply.body))
        assert image.size == (30, 20) and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    np.testing.assert_array_equal(Image.open(io.BytesIO(shown.body)), Image.open(file))


def test_augmented(serve, ask, index, truth, tiny_experiment):
    """The only augmentation is a flip: the result is the resized image or its mirror image."""
    settings = tiny_experiment("flip.probability=0.5").train_input
    browser_server = serve(DatasetBrowser(index, Augmenter(settings, index.info)).routes, "browser.html")
    assert "flip" in ask(browser_server, "/api/dataset").body["augmentations"]
    ids = [image["id"] for image in truth["images"]]
    place = next(p for p in range(6) if sum(a["image_id"] == ids[p] for a in truth["annotations"]) > 1)
    draws = [ask(browser_server, f"/api/images/{place}/augmented/{number}").body for number in (*range(6), 0)]
    assert draws[0] == draws[6]
    assert 1 < len({draw["image"] for draw in draws}) <= 6
    stored = ask(browser_server, f"/api/images/{place}").body
    things = [item for item in stored["objects"] if not item["iscrowd"]]
    flipped = []
    for draw in draws[:6]:
        image_file = Image.open(io.BytesIO(base64.b64decode(draw["image"].partition(",")[2])))
        assert image_file.size == (draw["width"], draw["height"])
        scale = draw["width"] / stored["width"], draw["height"] / stored["height"]
        boxes = np.array([item["bbox"] for item in things]) * (scale * 2)
        found = np.array([item["bbox"] for item in draw["objects"]])
        mirrored = np.column_stack([draw["width"] - boxes[:, 0] - boxes[:, 2], boxes[:, 1:]])
        flipped.append(np.allclose(found, mirrored, atol=0.2))
        np.testing.assert_allclose(found, mirrored if flipped[-1] else boxes, atol=0.2)
        for item in draw["objects"]:
            x, y, width, height = coco_mask.toBbox(item["segmentation"])
            np.testing.assert_allclose([x, y, x + width, y + height], corners(item["bbox"]), atol=2)
    assert len(set(flipped)) == 2


def corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]
