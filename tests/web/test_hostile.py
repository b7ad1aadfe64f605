"""What a stranger may send or put into records: one line in answer, no header of theirs, no failure of the server."""

import hashlib
import http.client
import io
import json
import socket
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf.data import schema
from htc_tf.data.datasets import load_info
from htc_tf.web.dataset_browser import Album
from htc_tf.web.demo import Demo
from htc_tf.web.record_index import RecordIndex

HEIGHT, WIDTH = 30, 40
SCRIPT = b"<script>document.title = 'taken'</script>"
INJECTED = "png\r\nContent-Type: text/html\r\nX-Injected: yes\r\n\r\n<script>alert(1)</script>"


def picture(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(file, kind)
    return file.getvalue()


def bomb():
    """400 million pixels in 50 kilobytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def thing(**changes):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:20, 5:20] = 1
    item = schema.Object(1, 0.1, 0.1, 0.6, 0.5, 3, "cat", 0, 225, coco_mask.encode(mask)["counts"])
    return item._replace(**changes)


def image(**changes):
    return schema.Image(picture(), "png", HEIGHT, WIDTH, "a.png", 1)._replace(**changes)


RECORDS = {
    "plain": (image(), [thing()]),
    "jpeg": (image(encoded=picture("JPEG"), format="jpeg"), []),
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
def album(serve, index):
    return serve(Album(index).routes, "album.html", largest_body=0)


@pytest.fixture
def demo(serve, stub_model):
    demo = Demo(stub_model, "stub", largest_picture=60_000, largest_body=100_000)
    return serve(demo.routes, largest_body=demo.largest_body)


def check_headers(answer, kinds=("application/json", "image/png", "image/jpeg")):
    """No header but the server's own; nothing that a browser would run."""
    assert answer.headers["Content-Type"] in kinds
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy
    assert not {"X-Injected", "Set-Cookie"} & set(answer.headers)
    assert len(answer.headers.get_all("Content-Type")) == 1


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("part", ["", "/picture", "/thumbnail", "/augmented/0"])
def test_no_record_reaches_a_header_or_breaks_the_server(album, ask, name, part, capfd):
    answer = ask(album, f"/api/images/{PLACES[name]}{part}")
    check_headers(answer)
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert len(answer.body["error"].splitlines()) == 1 and len(answer.body["error"]) <= 1000
    assert "Traceback" not in capfd.readouterr().err


def test_augmentations_of_any_record(serve, ask, index, tiny_experiment, capfd):
    from htc_tf.web.augmenter import Augmenter

    album = serve(Album(index, Augmenter(tiny_experiment().train_input, index.info)).routes, "album.html")
    for name, place in PLACES.items():
        answer = ask(album, f"/api/images/{place}/augmented/999999999")
        check_headers(answer)
        assert answer.status in (200, 400) and (name != "plain" or answer.status == 200), (name, answer.body)
    assert "Traceback" not in capfd.readouterr().err


def test_a_picture_is_served_as_what_it_is(album, ask):
    kinds = {name: ask(album, f"/api/images/{PLACES[name]}/picture") for name in RECORDS}
    assert kinds["plain"].headers["Content-Type"] == "image/png"
    assert kinds["jpeg"].headers["Content-Type"] == "image/jpeg"
    # Whatever the record calls it.
    assert kinds["format injects a header"].headers["Content-Type"] == "image/png"
    for name in ("format is svg", "format is html", "image is html", "image is empty"):
        assert kinds[name].status == 400 and "JPEG" in kinds[name].body["error"], name


@pytest.mark.parametrize(
    "name", ["boxes are not finite", "masks are no text", "masks are too long", "size is huge", "size is negative"]
)
def test_truth_that_cannot_be_drawn_is_refused(album, ask, name):
    answer = ask(album, f"/api/images/{PLACES[name]}")
    assert answer.status == 400 and "damaged" in answer.body["error"]


@pytest.mark.parametrize("part", ["picture", "thumbnail"])
def test_an_image_that_is_too_large_is_not_decoded(album, ask, part):
    answer = ask(album, f"/api/images/{PLACES['image is a bomb']}/{part}")
    assert answer.status == 400 and "20000 x 20000 pixels, more than" in answer.body["error"]


def test_strings_of_records_are_json(album, ask):
    shown = ask(album, f"/api/images/{PLACES['names']}")
    assert shown.body["file_name"].startswith("\r\nSet-Cookie")
    assert ask(album, "/api/dataset").body["classes"][0]["name"].startswith("</option>")


NUMBERS = ["9" * 5000, "9" * 400, "-1", "1.5", "1e9", "0x10", "\u0663", "%00", "1%0a2", "NaN", str(2**63), "[1]", "{}"]


@pytest.mark.parametrize("name", ["from", "count", "id", "class", "size"])
@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_of_a_query_are_bounded(album, ask, name, value, capfd):
    from urllib.parse import quote

    answer = ask(album, f"/api/images?{name}={quote(value, safe='%')}")
    assert answer.status == 400 and len(answer.body["error"].splitlines()) == 1
    assert name in answer.body["error"] and len(answer.body["error"]) < 300
    assert "Traceback" not in capfd.readouterr().err


def test_numbers_that_are_fine(album, ask):
    assert ask(album, f"/api/images?from={10**17}").body == {"total": len(RECORDS), "places": []}
    assert len(ask(album, "/api/images?from=2&count=999999").body["places"]) == len(RECORDS) - 2
    assert ask(album, f"/api/images?id={2**63 - 1}").body["total"] == 0
    assert ask(album, "/api/images?id=3&from=&count=").body["places"] == [3]


def talk(server, text):
    """Sends bytes as they are; -> all that comes back until the server closes the connection."""
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def line(method, target, *headers, host=True):
    rows = [f"{method} {target} HTTP/1.1".encode("latin-1")]
    rows += [b"Host: 127.0.0.1"] * host + [b"Connection: close"]
    return b"\r\n".join([*rows, *headers, b"", b""])


WILD = {
    "traversal": line("GET", "/../../../../etc/passwd"),
    "encoded traversal": line("GET", "/%2e%2e/%2e%2e/etc/passwd"),
    "backslashes": line("GET", "/..\\..\\server.py"),
    "NUL": line("GET", "/album.js%00.html"),
    "not UTF-8": line("GET", "/api/images?class=%ff%fe&\xff=\xe9"),
    "brackets": line("GET", "//["),
    "an address": line("GET", "http://[::1/api/dataset"),
    "an unknown place": line("GET", "/api/images/999999999"),
    "a large place": line("GET", "/api/images/" + "9" * 5000),
    "many fields": line("GET", "/api/images?" + "a=1&" * 9000),
    "no Host": line("GET", "/", host=False),
    "Host not UTF-8": line("GET", "/", b"Host: \xff\xfe", host=False),
    "Host elsewhere": line("GET", "/", b"Host: elsewhere.example", host=False),
    "Host with a user": line("GET", "/", b"Host: 127.0.0.1@elsewhere.example", host=False),
    "two Hosts": line("GET", "/", b"Host: elsewhere.example"),
    "Origin": line("GET", "/api/dataset", b"Origin: null"),
    "another site's picture": line("GET", "/api/images/0/picture", b"Sec-Fetch-Site: cross-site"),
    "length of 5,000 digits": line("POST", "/api/detect", b"Content-Length: " + b"9" * 5000),
    "negative length": line("POST", "/api/detect", b"Content-Length: -5"),
    "length in words": line("POST", "/api/detect", b"Content-Length: \xb2"),
    "two lengths": line("POST", "/api/detect", b"Content-Length: 3", b"Content-Length: 4") + b"abcd",
    "chunks": line("POST", "/api/detect", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "chunks and length": line("POST", "/api/detect", b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"abc",
    "more than there is": line("POST", "/api/detect", b"Content-Length: 1000000000") + b"abc",
    "less than said": line("POST", "/api/detect", b"Content-Length: 100") + b"abc",
    "POST where GET is": line("POST", "/api/dataset", b"Content-Length: 0"),
    "GET where POST is": line("GET", "/api/detect"),
    "GET with a body": line("GET", "/", b"Content-Length: 5") + b"GET /",
    "PUT": line("PUT", "/", b"Content-Length: 0"),
    "DELETE": line("DELETE", "/api/images/0"),
    "OPTIONS": line("OPTIONS", "*"),
    "CONNECT": line("CONNECT", "127.0.0.1:22"),
    "HEAD": line("HEAD", "/"),
    "no method": b"\r\n\r\n",
    "noise": bytes(range(256)) + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "a version": b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "an old version": b"GET /\r\n\r\n",
    "a long line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": line("GET", "/", b"X: " + b"a" * 70_000),
    "many headers": line("GET", "/", *(b"X%d: 1" % i for i in range(200))),
    "a header in the address": line("GET", "/%0d%0aX-Injected:%20yes"),
}


@pytest.mark.parametrize("name", WILD)
@pytest.mark.parametrize("page", ["album", "demo"])
def test_any_request_is_answered_or_refused(request, page, name, ask, capfd):
    server = request.getfixturevalue(page)
    answer = talk(server, WILD[name])
    heads = [int(row.split()[1]) for row in answer.split(b"\r\n") if row.startswith(b"HTTP/1.")]
    assert len(heads) <= 1 and all(400 <= status <= 599 and status != 500 for status in heads), answer[:300]
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"root:" not in answer and b"X-Injected" not in head and b"<html" not in answer.lower()
    if heads:
        assert b"nosniff" in head and b"Content-Security-Policy" in head
    assert "Traceback" not in capfd.readouterr().err
    assert ask(server, "/").status == 200  # the next one is answered


def test_a_body_is_not_the_next_request(demo):
    """What is left of a refused request must not be read as another one."""
    inner = line("GET", "/api/model")
    for outer in (
        line("GET", "/", b"Content-Length: %d" % len(inner)),
        line("POST", "/nowhere", b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    ):
        answer = talk(demo, outer.replace(b"Connection: close\r\n", b"") + inner)
        assert answer.count(b"HTTP/1.1 ") == 1 and b"stub" not in answer


def test_connections_are_bounded(demo, ask, monkeypatch):
    from htc_tf.web import server

    held = [socket.create_connection(demo.server_address) for _ in range(server.MOST_CONNECTIONS + 20)]
    try:
        late = http.client.HTTPConnection(*demo.server_address, timeout=20)
        with pytest.raises((OSError, http.client.HTTPException)):
            late.request("GET", "/")
            late.getresponse()
    finally:
        for connection in held:
            connection.close()
    for _ in range(100):
        try:
            assert ask(demo, "/").status == 200
            break
        except OSError:
            continue


def test_noise_never_breaks_the_server(album, demo, ask, capfd):
    """Random bytes, and good requests with a few bytes changed."""
    random = np.random.default_rng(0)
    good = [text for text in WILD.values() if len(text) < 2000]
    for number in range(150):
        text = bytearray(good[number % len(good)])
        for place in random.integers(0, len(text), 3):
            text[place] = random.integers(256)
        answer = talk((album, demo)[number % 2], bytes(text))
        assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert ask(album, "/").status == ask(demo, "/").status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_any_bytes_are_a_picture_or_refused(demo, ask, capfd):
    random = np.random.default_rng(1)
    whole = [picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF")]
    for number in range(40):
        body = bytearray(whole[number % len(whole)])
        for place in random.integers(0, min(len(body), 80), 2):
            body[place] = random.integers(256)
        for path in ("/api/detect", "/api/picture"):
            answer = ask(demo, path, bytes(body))
            assert answer.status in (200, 413, 415), answer.body
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    assert ask(demo, "/api/detect", huge).status in (413, 415)
    assert "Traceback" not in capfd.readouterr().err
