"""Hostile records and queries: errors of one line, no injected headers, no failure of the server."""

import hashlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data import schema
from htc_tf.data.datasets import load_info
from htc_tf.web.dataset_browser import DatasetBrowser
from htc_tf.web.record_index import RecordIndex

HEIGHT, WIDTH = 30, 40
SCRIPT = b"<script>document.title = 'taken'</script>"
INJECTED = "png\r\nContent-Type: text/html\r\nX-Injected: yes\r\n\r\n<script>alert(1)</script>"


def encode(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(file, kind)
    return file.getvalue()


def bomb():
    """Returns a PNG of 400 million pixels in 50 kilobytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def thing(**changes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:20, 5:20] = 1
    item = schema.Object(1, 0.1, 0.1, 0.6, 0.5, 3, "cat", 0, 225, coco_mask.encode(mask)["counts"])
    return item._replace(**changes)


def image(**changes):
    return schema.Image(encode(), "png", HEIGHT, WIDTH, "a.png", 1)._replace(**changes)


RECORDS = {
    "plain": (image(), [thing()]),
    "jpeg": (image(encoded=encode("JPEG"), format="jpeg"), []),
    "format injects a header": (image(format=INJECTED), [thing()]),
    "format is svg": (image(encoded=b"<svg xmlns='http://www.w3.org/2000/svg'>" + SCRIPT, format="svg+xml"), []),
    "format is html": (image(encoded=SCRIPT, format="/../text/html"), []),
    "image is html": (image(encoded=SCRIPT), []),
    "image is empty": (image(encoded=b""), []),
    "names": (image(filename="\r\nSet-Cookie: a=b\r\n<img src=x onerror=alert(1)>" + "w" * 9000), [thing(text="\x00")]),
    "boxes are not finite": (image(), [thing(xmin=float("nan")), thing(ymax=float("inf")), thing(area=float("nan"))]),
    "masks are no text": (image(), [thing(mask_rle=b"\xff\xfe")]),
    "masks are too long": (image(), [thing(mask_rle=b"oooooooooooooooooooooooo0")]),
    "size is huge": (image(height=2**40, width=2**40), [thing()]),
    "size is negative": (image(height=-1, width=0), [thing()]),
    "class is unknown": (image(), [thing(label=2**62)]),
    "image is a bomb": (image(encoded=bomb(), height=20_000, width=20_000), []),
}
PLACES = {name: place for place, name in enumerate(RECORDS)}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "00000-of-00001.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, (shown, objects) in enumerate(RECORDS.values()):
            writer.write(schema.example(shown._replace(source_id=number), objects))
    shard = {"file": path.name, "records": len(RECORDS), "bytes": path.stat().st_size}
    shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    categories = [{"id": 3, "name": "</option><script>alert(1)</script>"}, {"id": 4, "name": "w" * 10_000}]
    info = {"version": 1, "categories": categories, "stuff": {"present": False, "labels": 0}, "masks": True}
    info |= {"images": len(RECORDS), "objects": 12, "crowd": 0, "shards": [shard]}
    info |= {"counters": {}, "options": {}, "inputs": {}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    index = RecordIndex(load_info(folder))
    index.start()
    index.wait()
    assert not index.problem
    return index


@pytest.fixture
def browser_server(serve, index):
    return serve(DatasetBrowser(index).routes, "browser.html", max_bytes=0)


def check_headers(answer, kinds=("application/json", "image/png", "image/jpeg")):
    """Checks that the headers are the server's own and that a browser would run nothing."""
    assert answer.headers["Content-Type"] in kinds
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy
    assert not {"X-Injected", "Set-Cookie"} & set(answer.headers)
    assert len(answer.headers.get_all("Content-Type")) == 1


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("part", ["", "/file", "/thumbnail", "/augmented/0"])
def test_no_record_reaches_a_header_or_breaks_the_server(browser_server, ask, name, part, capfd):
    answer = ask(browser_server, f"/api/images/{PLACES[name]}{part}")
    check_headers(answer)
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert len(answer.body["error"].splitlines()) == 1 and len(answer.body["error"]) <= 1000
    assert "Traceback" not in capfd.readouterr().err


def test_augmentations_of_any_record(serve, ask, index, tiny_experiment, capfd):
    from htc_tf.web.augmenter import Augmenter

    browser_server = serve(
        DatasetBrowser(index, Augmenter(tiny_experiment().train_input, index.info)).routes, "browser.html"
    )
    for name, place in PLACES.items():
        answer = ask(browser_server, f"/api/images/{place}/augmented/999999999")
        check_headers(answer)
        assert answer.status in (200, 400) and (name != "plain" or answer.status == 200), (name, answer.body)
    assert "Traceback" not in capfd.readouterr().err


def test_augmentations_before_a_record_is_indexed(serve, ask, index, capfd):
    browser_server = serve(DatasetBrowser(RecordIndex(index.info), augmenter=object()).routes, "browser.html")
    answer = ask(browser_server, "/api/images/0/augmented/0")
    assert answer.status == 400 and "no image number 0, or it is not indexed yet" in answer.body["error"]
    assert "Traceback" not in capfd.readouterr().err


def test_the_mime_type_is_that_of_the_content(browser_server, ask):
    kinds = {name: ask(browser_server, f"/api/images/{PLACES[name]}/file") for name in RECORDS}
    assert kinds["plain"].headers["Content-Type"] == "image/png"
    assert kinds["jpeg"].headers["Content-Type"] == "image/jpeg"
    # Whatever the record calls it.
    assert kinds["format injects a header"].headers["Content-Type"] == "image/png"
    for name in ("format is svg", "format is html", "image is html", "image is empty"):
        assert kinds[name].status == 400 and "JPEG" in kinds[name].body["error"], name


@pytest.mark.parametrize(
    "name", ["boxes are not finite", "masks are no text", "masks are too long", "size is huge", "size is negative"]
)
def test_damaged_ground_truth_is_refused(browser_server, ask, name):
    answer = ask(browser_server, f"/api/images/{PLACES[name]}")
    assert answer.status == 400 and "damaged" in answer.body["error"]


@pytest.mark.parametrize("part", ["file", "thumbnail"])
def test_an_image_that_is_too_large_is_not_decoded(browser_server, ask, part):
    answer = ask(browser_server, f"/api/images/{PLACES['image is a bomb']}/{part}")
    assert answer.status == 400 and "20000 x 20000 pixels, more than" in answer.body["error"]


def test_strings_of_records_are_json(browser_server, ask):
    shown = ask(browser_server, f"/api/images/{PLACES['names']}")
    assert shown.body["file_name"].startswith("\r\nSet-Cookie")
    assert ask(browser_server, "/api/dataset").body["classes"][0]["name"].startswith("</option>")


NUMBERS = ["9" * 5000, "9" * 400, "-1", "1.5", "1e9", "0x10", "\u0663", "%00", "1%0a2", "NaN", str(2**63), "[1]", "{}"]


@pytest.mark.parametrize("name", ["from", "count", "id", "class", "size"])
@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_of_a_query_are_bounded(browser_server, ask, name, value, capfd):
    from urllib.parse import quote

    answer = ask(browser_server, f"/api/images?{name}={quote(value, safe='%')}")
    assert answer.status == 400 and len(answer.body["error"].splitlines()) == 1
    assert name in answer.body["error"] and len(answer.body["error"]) < 300
    assert "Traceback" not in capfd.readouterr().err


def test_numbers_that_are_fine(browser_server, ask):
    assert ask(browser_server, f"/api/images?from={10**17}").body == {"total": len(RECORDS), "positions": []}
    assert len(ask(browser_server, "/api/images?from=2&count=999999").body["positions"]) == len(RECORDS) - 2
    assert ask(browser_server, f"/api/images?id={2**63 - 1}").body["total"] == 0
    assert ask(browser_server, "/api/images?id=3&from=&count=").body["positions"] == [3]
