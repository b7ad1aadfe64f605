"""The demo over HTTP: images in, COCO results out; an error is one line, and the next image works."""

import base64
import io

import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from htc_tf.visualization.palette import palette
from htc_tf.web.demo import Demo


@pytest.fixture
def demo(serve, stub_model):
    demo = Demo(stub_model, "stub", max_pixels=60_000, max_bytes=100_000)
    return serve(demo.routes, max_bytes=demo.max_bytes)


def encoded(kind="PNG", size=(90, 60), **options):
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def test_the_model_is_described(demo, ask):
    described = ask(demo, "/api/model").body
    assert described["name"] == "stub" and described["threshold"] == 0.3
    assert [one["name"] for one in described["classes"]] == ["square", "disc", "nothing"]
    colors = [[int(one["color"][i : i + 2], 16) for i in (1, 3, 5)] for one in described["classes"]]
    np.testing.assert_array_equal(colors, palette(3))


def test_detections_of_an_image(demo, ask, stub_model):
    answer = ask(demo, "/api/detect", encoded("PNG")).body
    assert (answer["width"], answer["height"]) == (90, 60)
    expected = stub_model(np.zeros((60, 90, 3), np.uint8))
    assert answer["objects"] == expected.to_coco()
    np.testing.assert_array_equal(coco_mask.decode(answer["objects"][1]["segmentation"]), expected.masks[1])


def test_the_exif_orientation_is_applied(demo, ask):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    answer = ask(demo, "/api/detect", encoded("JPEG", exif=exif)).body
    assert (answer["width"], answer["height"]) == (60, 90)


def test_a_format_that_browsers_cannot_show(demo, ask):
    shown = ask(demo, "/api/image", encoded("TIFF")).body["image"]
    head, _, content = shown.partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (90, 60)


def test_an_image_too_large_for_a_jpeg_is_not_shown(serve, ask, stub_model):
    demo = serve(Demo(stub_model, "stub", max_pixels=10**6, max_bytes=100_000).routes)
    file = io.BytesIO()
    Image.new("RGB", (65_510, 1)).save(file, "PNG")
    answer = ask(demo, "/api/image", file.getvalue())
    assert answer.status == 413 and "a side of 65510 pixels, more than the 65500 of a JPEG" in answer.body["error"]


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"not an image", 415, "a text file"),
        (b"", 415, "an empty file"),
        (b"<html></html>", 415, "an HTML page"),
        (encoded("JPEG")[:900], 415, ""),
        (encoded("PNG", (400, 151), compress_level=9)[:4000], 413, "400 x 151 pixels, more than 0.06 megapixels"),
        (b"x" * 100_001, 413, "more than 0.1 megabytes"),
    ],
)
def test_a_mistake_is_one_line_and_the_next_image_works(demo, ask, body, status, line, capfd):
    answer = ask(demo, "/api/detect", body)
    assert answer.status == status and line in answer.body["error"] and "\n" not in answer.body["error"]
    assert ask(demo, "/api/detect", encoded("PNG")).status == 200
    assert "Traceback" not in capfd.readouterr().err
