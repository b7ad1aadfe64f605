"""Hostile requests: any bytes are answered or refused, in one line, and the server keeps working."""

import http.client
import io
import socket
import struct

import numpy as np
import pytest
from PIL import Image

from htc_tf.data.datasets import DatasetInfo, Stuff
from htc_tf.web.dataset_browser import DatasetBrowser
from htc_tf.web.demo import Demo
from htc_tf.web.record_index import RecordIndex


@pytest.fixture
def browser_server(serve, tmp_path):
    info = DatasetInfo(str(tmp_path), (), Stuff(False, 0), masks=True, images=0, objects=0, crowd=0, shards=())
    return serve(DatasetBrowser(RecordIndex(info)).routes, "browser.html", max_bytes=0)


@pytest.fixture
def demo(serve, stub_model):
    demo = Demo(stub_model, "stub", max_pixels=60_000, max_bytes=100_000)
    return serve(demo.routes, max_bytes=demo.max_bytes)


def talk(server, text):
    """Sends raw bytes and returns everything received until the server closes the connection."""
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
    "NUL": line("GET", "/browser.js%00.html"),
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
    "another site's image": line("GET", "/api/images/0/file", b"Sec-Fetch-Site: cross-site"),
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
@pytest.mark.parametrize("page", ["browser_server", "demo"])
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
    """The rest of a refused request is not read as another one."""
    inner = line("GET", "/api/model")
    for outer in (
        line("GET", "/", b"Content-Length: %d" % len(inner)),
        line("POST", "/nowhere", b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    ):
        answer = talk(demo, outer.replace(b"Connection: close\r\n", b"") + inner)
        assert answer.count(b"HTTP/1.1 ") == 1 and b"stub" not in answer


def test_connections_are_bounded(demo, ask, monkeypatch):
    from htc_tf.web import server

    held = [socket.create_connection(demo.server_address) for _ in range(server.MAX_CONNECTIONS + 20)]
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


def test_noise_never_breaks_the_server(browser_server, demo, ask, capfd):
    """Valid and invalid requests with a few random bytes changed."""
    random = np.random.default_rng(0)
    good = [text for text in WILD.values() if len(text) < 2000]
    for number in range(150):
        text = bytearray(good[number % len(good)])
        for place in random.integers(0, len(text), 3):
            text[place] = random.integers(256)
        answer = talk((browser_server, demo)[number % 2], bytes(text))
        assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert ask(browser_server, "/").status == ask(demo, "/").status == 200
    assert "Traceback" not in capfd.readouterr().err


def encode(kind):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 120, 30)).save(file, kind)
    return file.getvalue()


def test_any_bytes_are_an_image_or_refused(demo, ask, capfd):
    random = np.random.default_rng(1)
    whole = [encode(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF")]
    for number in range(40):
        body = bytearray(whole[number % len(whole)])
        for place in random.integers(0, min(len(body), 80), 2):
            body[place] = random.integers(256)
        for path in ("/api/detect", "/api/image"):
            answer = ask(demo, path, bytes(body))
            assert answer.status in (200, 413, 415), answer.body
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    assert ask(demo, "/api/detect", huge).status in (413, 415)
    assert "Traceback" not in capfd.readouterr().err
