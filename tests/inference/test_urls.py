"""Images by URL from a local https server: bounds, redirects, and addresses that a stranger's URL must not reach."""

import contextlib
import socket
import ssl
import threading

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.inference import urls
from htc_tf.inference.inputs import Unreadable, Url, as_image, find_inputs, read_image
from htc_tf.inference.output_names import drawing_names, refuse_replacing
from htc_tf.inference.video import check_decoder, is_video
from tests.inference.https_server import CONTENT, PIXELS, Handler, Server, write_certificate


@pytest.fixture
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("certificate") / "x.pem"
    write_certificate(path)
    return path


@pytest.fixture
def server(certificate, monkeypatch):
    """A server at 127.0.0.1, whose certificate is accepted and whose address counts as public."""
    with Server(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.asked, server.silence = [], threading.Event()
        server.address = f"https://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        refuse = urls._check_public
        monkeypatch.setattr(urls, "_check_public", lambda address: address == "127.0.0.1" or refuse(address))
        yield server
        server.silence.set()
        server.shutdown()


@pytest.mark.parametrize("path", ["good.png", "unsized", "chunked", "redirect"])
def test_an_image_by_url_is_that_of_the_file(server, path):
    np.testing.assert_array_equal(as_image(f"{server.address}/{path}"), PIXELS)
    np.testing.assert_array_equal(read_image(Url(f"{server.address}/{path}")), PIXELS)
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("cut", "the connection was cut"),
        ("huge", "has more than the 20000 bytes"),
        ("endless", "has more than the 20000 bytes"),
        ("compressed", "the server compresses the file"),
        ("page", "an HTML page"),
        ("missing", "HTTP 404"),
        ("nowhere", "HTTP 302"),
        ("loop", "more than 5 redirects"),
        ("to_http", "a URL by http, and only https is read"),
        ("to_file", "a URL by file, and only https is read"),
        ("to_private", "a URL of a private or local address"),
        ("silent", "no answer in time"),
        ("dripping", "no complete answer in 1 seconds"),
    ],
)
def test_whatever_a_server_does_is_one_line(server, monkeypatch, path, reason):
    monkeypatch.setattr(urls, "MAX_BYTES", 20_000)
    monkeypatch.setattr(urls, "CHUNK", 1000)
    monkeypatch.setattr(urls, "DEADLINE", 1 if path == "dripping" else 300)
    monkeypatch.setattr(urls, "TIMEOUT", (30, 0.5 if path == "silent" else 30))
    with pytest.raises(Unreadable) as caught:
        as_image(f"{server.address}/{path}")
    assert str(caught.value).startswith(f"{server.address}/{path}: ") and reason in caught.value.reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/x.png", "only https is read"),
        ("ftp://example.com/x.png", "only https is read"),
        ("file:///etc/passwd", "only https is read"),
        ("https://user:word@example.com/x.png", "a URL with a password"),
        ("https:///x.png", "a URL without a host"),
        ("https://[::1/x.png", "not a valid URL"),
        ("https://host:99999/x.png", "not a valid URL"),
    ],
)
def test_other_urls_are_refused_before_any_connection(monkeypatch, url, reason):
    monkeypatch.setattr(urls.requests.Session, "get", None)
    with pytest.raises(Unreadable, match=reason):
        as_image(url)


HOSTS = "127.0.0.1 localhost 10.0.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 2130706433 127.1 [::1] "
HOSTS += "[64:ff9b::a9fe:a9fe] [64:ff9b:1::7f00:1] [2002:7f00:1::] [::7f00:1] [::ffff:0:7f00:1] [fec0::1] "
HOSTS += "224.0.1.1 [ff0e::1]"


@pytest.mark.parametrize("host", [*HOSTS.split(), "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]"])
def test_private_addresses_are_refused_without_a_connection(monkeypatch, host):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib3.util.connection.create_connection", None)
    with pytest.raises(Unreadable, match="a URL of a private or local address"):
        as_image(f"https://{host}/x.png")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address):
    urls._check_public(address)


def test_a_name_server_that_changes_its_mind_is_not_followed(server, monkeypatch):
    """The name resolves to a public address when it is checked and to a private one when it is connected to."""
    checked = []

    def check(address):
        checked.append(address)
        if len(checked) > 1:
            refuse(address)

    monkeypatch.undo()
    refuse = urls._check_public
    monkeypatch.setattr(urls, "_check_public", check)
    with pytest.raises(Unreadable, match="a private or local address"):
        as_image(f"{server.address}/good")
    assert checked == ["127.0.0.1"] * 2 and not server.asked


class Proxy(Handler):
    """A proxy that connects to the server of the tests, whatever name it is asked for."""

    def do_CONNECT(self):
        self.server.asked.append((self.path, self.headers))
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(self.server.target) as other:
            threading.Thread(target=self.forward, args=(other, self.connection), daemon=True).start()
            self.forward(self.connection, other)

    def forward(self, source, target):
        with contextlib.suppress(OSError):
            while part := source.recv(2**16):
                target.sendall(part)


def test_a_proxy_connects_by_its_own_rules(server, monkeypatch):
    with Server(("127.0.0.1", 0), Proxy) as proxy:
        proxy.asked, proxy.target = [], server.server_address
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        np.testing.assert_array_equal(as_image("https://127.0.0.2:9/good"), PIXELS)
        assert [path for path, _ in proxy.asked] == ["127.0.0.2:9"] and len(server.asked) == 1
        proxy.shutdown()


def test_a_certificate_of_nobody_is_refused(server, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(Unreadable, match="its certificate is not accepted"):
        as_image(f"{server.address}/good")


def test_passwords_of_netrc_stay_here(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    as_image(f"{server.address}/redirect")
    assert [path for path, _ in server.asked] == ["/redirect", "/good"]
    assert not any("Authorization" in headers for _, headers in server.asked)


def test_urls_among_the_inputs(tmp_path):
    (tmp_path / "a.png").write_bytes(CONTENT)
    names = [str(tmp_path), "https://host/folder/b%20c.jpg?size=2#x", "-"]
    lines = [
        "HTTPS://host/folder/b%20c.jpg?size=2#x\n",
        "https://host/b%20c.jpg\n",
        "https://host/../x%2F..%2Fd%00.png\n",
    ]
    found = find_inputs(names, lines)  # the first line is there already
    assert [type(path) is Url for path in found] == [False, True, True, True]
    assert [path.name for path in found] == ["a.png", "b c.jpg", "b c.jpg", "d_.png"]
    assert found[1].stem == "b c" and found[1].suffix == ".jpg" and str(found[1]) == names[1]
    assert drawing_names(found) == ["a.png", "b c.png", "b c_2.png", "d_.png"]
    refuse_replacing(found, ["b c.png"], tmp_path)
    for odd in ("https://host", "https://host/", "https://host/..", "https://[/x"):
        assert Url(odd).name == "image"
    with pytest.raises(UserError, match=r"--input http://host/x\.jpg: of URLs only https"):
        find_inputs(["http://host/x.jpg"])


def test_a_url_is_one_image():
    for name in ("https://host/x.gif", "https://host/x.mp4"):
        assert not is_video(Url(name))
        check_decoder([Url(name)])
