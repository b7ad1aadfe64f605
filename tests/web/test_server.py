"""The server over HTTP: pages, routes, refused requests, and shutdown."""

import gzip
import http.client
import json
import signal
import socket
import threading

import pytest

from htc_tf.errors import UserError
from htc_tf.web.server import PAGES, HTTPError, Reply, Server


def echo(request, *groups):
    return {"query": request.query, "body": request.body.decode(), "groups": groups}


def fail(request):
    raise RuntimeError("a bug")


def refuse(request):
    raise HTTPError("not so", 418)


def mistake(request):
    raise UserError("a mistake")


ROUTES = {
    ("GET", r"/api/things/(\d+)"): echo,
    ("POST", "/api/things"): echo,
    ("GET", "/api/image"): lambda request: Reply(b"\x89PNG" * 1000, "image/png"),
    ("GET", "/api/long"): lambda request: ["word"] * 1000,
    ("GET", "/api/fail"): fail,
    ("GET", "/api/refuse"): refuse,
    ("GET", "/api/mistake"): mistake,
}


def test_pages_and_routes(serve, ask):
    server = serve(ROUTES)
    home = ask(server, "/")
    assert home.status == 200 and home.body == (PAGES / "demo.html").read_bytes()
    assert home.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in home.headers["Content-Security-Policy"]
    for path in PAGES.iterdir():
        assert ask(server, f"/{path.name}").body == path.read_bytes()
    assert ask(server, "/api/things/12?a=1&b=x%20y").body == {
        "query": {"a": "1", "b": "x y"},
        "body": "",
        "groups": ["12"],
    }
    assert ask(server, "/api/things", b"content").body["body"] == "content"
    assert ask(server, "/api/image").body == b"\x89PNG" * 1000
    packed = ask(server, "/api/long", Accept_Encoding="gzip")
    assert len(packed.body) < 200 and json.loads(gzip.decompress(packed.body)) == ["word"] * 1000


def test_no_page_loads_anything_from_elsewhere():
    for path in PAGES.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "").replace("//\n", ""), path.name


@pytest.mark.parametrize("path", ["/nothing", "/../server.py", "/server.py", "//etc/passwd", "/api/things/x"])
def test_unknown_paths(serve, ask, path):
    answer = ask(serve(ROUTES), path)
    assert answer.status == 404 and "not found" in answer.body["error"]


def test_mistakes_are_one_line(serve, ask, capfd):
    server = serve(ROUTES)
    for name, status, line in (("refuse", 418, "not so"), ("mistake", 400, "a mistake")):
        answer = ask(server, f"/api/{name}")
        assert (answer.status, answer.body) == (status, {"error": line})
    answer = ask(server, "/api/fail")
    assert answer.status == 500 and "terminal" in answer.body["error"]
    assert "RuntimeError: a bug" in capfd.readouterr().err
    assert ask(server, "/api/things/1").status == 200


def test_other_sites_are_refused(serve, ask):
    server = serve(ROUTES)
    port = server.server_address[1]
    assert ask(server, "/api/things/1", Host=f"elsewhere.example:{port}").status == 403
    assert ask(server, "/api/things/1", Host=f"localhost:{port}").status == 200
    assert ask(server, "/api/things", b"x", Origin="http://elsewhere.example").status == 403
    assert ask(server, "/api/things", b"x", Origin=f"http://127.0.0.1:{port}").status == 200


def test_a_too_large_body(serve, ask):
    server = serve(ROUTES, max_bytes=2_000_000)
    answer = ask(server, "/api/things", b"x" * 9_000_000)
    assert (answer.status, answer.body) == (413, {"error": "more than 2 megabytes"})
    connection = http.client.HTTPConnection(*server.server_address)
    connection.putrequest("POST", "/api/things")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()
    assert ask(server, "/api/things", b"next").body["body"] == "next"


@pytest.mark.parametrize(("port", "line"), [(None, "in use"), (99999, "from 0 to 65535")])
def test_an_unavailable_address(port, line):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UserError, match=line):
        Server("127.0.0.1", port or other.getsockname()[1], "demo.html")


def test_no_name_server_is_asked(monkeypatch):
    """HTTPServer asks for this machine's full name, which can take seconds."""
    asked = []
    monkeypatch.setattr(socket, "getfqdn", lambda *name: asked.append(name) or "")
    Server("127.0.0.1", 0, "demo.html").server_close()
    assert not asked


def test_an_interrupt_stops_the_server(capsys):
    server = Server("127.0.0.1", 0, "demo.html")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
        server.serve()
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().out.splitlines() == [f"{server.address}  (press Ctrl-C to stop)", "", "stopped"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.server_address)
