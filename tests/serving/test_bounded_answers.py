"""Servers that answer too much or too slowly: every answer is bounded in bytes and in time, by REST and by gRPC."""

import contextlib
import itertools
import ssl
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

from htc_tf import client
from htc_tf.errors import ModelFailed, TooLate, UserError
from htc_tf.serving import rest_client
from htc_tf.serving.grpc_client import GrpcClient
from htc_tf.serving.messages import PREDICT
from htc_tf.serving.rest_client import MESSAGE, MIB, RestClient, max_answer
from tests.inference.https_server import write_certificate

SPACES = b" " * 2**16


class Server(ThreadingHTTPServer):
    """Answers its requests by the functions of `behavior`, one after the other and then by the last."""

    daemon_threads = True

    def __init__(self, *behavior):
        self.behavior, self.left = list(behavior), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, address):
        """A client that leaves is no error here."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        behavior = self.server.behavior
        (behavior.pop(0) if len(behavior) > 1 else behavior[0])(self)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def start(self, status=200, length=None):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def drip(self, content):
        """Sends a byte every hundredth of a second."""
        for byte in content:
            self.wfile.write(bytes([byte]))
            if self.server.left.wait(0.01):
                return

    def log_message(self, *_):
        """Nothing on standard error."""


def endless(status):
    def answer(handler):
        handler.start(status)
        for _ in itertools.repeat(None):
            handler.wfile.write(SPACES)

    return answer


def stated(handler):
    handler.start(length=10**15)


def cut(handler):
    handler.start(length=100)
    handler.wfile.write(b"{}")


def dripping(status):
    def answer(handler):
        handler.start(status)
        handler.drip(SPACES)

    return answer


def dripping_head(handler):
    handler.drip(b"HTTP/1.1 200 OK\r\nX: " + SPACES)


def redirecting(handler):
    """To itself: each step takes less than the timeout."""
    handler.server.left.wait(0.15)
    handler.send_response(302)
    handler.send_header("Location", f"/{time.monotonic()}")
    handler.end_headers()


def leading_to(url):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    return answer


@pytest.fixture
def serve():
    """serve(behavior, ...) starts a Server and returns its address."""
    with contextlib.ExitStack() as stack:

        def start(*behavior, context=None):
            server = stack.enter_context(Server(*behavior))
            if context:
                server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            stack.callback(server.shutdown)
            stack.callback(server.left.set)
            return f"127.0.0.1:{server.server_port}"

        yield start


def test_the_bound_is_above_every_honest_answer():
    """docs/serving.md has the bytes of an image with 100 masks."""
    assert max_answer(1) == 64 * MIB
    assert all(max_answer(images) > 4 * images * 873_352 for images in (1, 16, 64, 400))
    assert max_answer(1024) == MESSAGE > 2 * 1024 * 873_352


@pytest.mark.parametrize("behavior", [endless(200), stated])
def test_an_answer_without_end(serve, behavior, monkeypatch):
    monkeypatch.setattr(rest_client, "LARGEST_ANSWER", 3 * MIB)
    monkeypatch.setattr(rest_client, "EACH_ANSWER", MIB)
    model = RestClient(serve(behavior), "htc", None, 9)
    with pytest.raises(ModelFailed, match=r"^127\.0\.0\.1:\d+: the answer has more than 3 MiB$"):
        model.predict([b"image"])
    with pytest.raises(ModelFailed, match="the answer has more than 4 MiB"):
        model.predict([b"image"] * 4)


def test_a_refusal_without_end(serve):
    model = RestClient(serve(endless(500)), "htc", None, 9)
    with pytest.raises(ModelFailed, match=r"refused with status 500: Internal Server Error \('   "):
        model.predict([b"image"])
    model = RestClient(serve(endless(404)), "htc", None, 9)
    with pytest.raises(UserError, match="no version known"):
        model.predict([b"image"])


def test_the_state_of_a_model_without_end(serve):
    model = RestClient(serve(lambda handler: handler.start(404, 0), endless(200)), "htc", None, 9)
    with pytest.raises(UserError, match="no version known"):
        model.predict([b"image"])


def test_an_answer_that_is_cut(serve):
    with pytest.raises(UserError, match=r"no REST interface \(IncompleteRead\)"):
        RestClient(serve(cut), "htc", None, 9).predict([b"image"])


@pytest.mark.parametrize("behavior", [dripping(200), dripping_head, redirecting])
def test_the_timeout_is_of_the_whole_request(serve, behavior):
    """Each byte would come before the timeout of a socket."""
    began = time.monotonic()
    with pytest.raises(TooLate, match=r": no answer within 0\.2 seconds: allow more with --timeout$"):
        RestClient(serve(behavior), "htc", None, 0.2).predict([b"image"])
    assert time.monotonic() - began < 5  # of 655 seconds


def test_a_refusal_that_comes_slowly(serve):
    with pytest.raises(ModelFailed, match=r"refused with status 500: Internal Server Error$"):
        RestClient(serve(dripping(500)), "htc", None, 0.2).predict([b"image"])


def test_a_server_that_does_not_read(serve, monkeypatch):
    monkeypatch.setattr(Handler, "do_POST", lambda handler: handler.server.left.wait(5))
    with pytest.raises(TooLate):
        RestClient(serve(cut), "htc", None, 0.2).predict([bytes(2**23)])


def test_the_command_names_the_file(serve, call, images, monkeypatch):
    monkeypatch.setattr(rest_client, "LARGEST_ANSWER", MIB)
    monkeypatch.setattr(rest_client, "EACH_ANSWER", MIB)
    done = call(client, "--server", serve(endless(200)), "--input", images / "a.png", images / "b.png", "--batch", 2)
    lines = [line for line in done.err.splitlines() if line.startswith("left out ")]
    assert [line.partition(": ")[0] for line in lines] == [f"left out {images / name}" for name in ("a.png", "b.png")]
    assert all(line.endswith(": the answer has more than 1 MiB") for line in lines)
    assert done.status == 2 and "Traceback" not in done.err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_without_end(serve, status):
    """urllib reads its whole body: until the deadline, into memory."""
    sent = []

    def answer(handler):
        handler.send_response(status)
        handler.send_header("Location", "/there")
        handler.end_headers()
        while sum(sent) < 2**26:
            sent.append(handler.wfile.write(SPACES))

    with pytest.raises(ModelFailed, match=r"refused with status (500|307|308)"):
        RestClient(serve(answer, endless(500)), "htc", None, 9).predict([b"image"])
    assert sum(sent) < 2**25  # what the buffers of the system hold


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1:9/x", "data:,{}"])
def test_a_redirect_leads_to_http_alone(serve, url):
    with pytest.raises(UserError, match=r"^127\.0\.0\.1:\d+: "):
        RestClient(serve(leading_to(url)), "htc", None, 9).predict([b"image"])


def test_https(serve, tmp_path, monkeypatch):
    write_certificate(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")

    def answer(handler):
        handler.start()
        handler.wfile.write(b'{"predictions": [{"sizes": [6, 8]}]}')

    address = f"https://{serve(answer, dripping(200), context=context)}/prefix"
    assert RestClient(address, "htc", None, 9).predict([bytes(2**18)])["sizes"].tolist() == [[6, 8]]
    with pytest.raises(TooLate):
        RestClient(address, "htc", None, 0.2).predict([b"image"])


@pytest.fixture
def serve_by_grpc():
    """serve_by_grpc(content, compression) starts a server that answers with these bytes, and returns its address."""
    server = None

    def start(content, compression=grpc.Compression.NoCompression):
        nonlocal server
        options = [("grpc.max_receive_message_length", 2**20)]
        server = grpc.server(futures.ThreadPoolExecutor(1), options=options, compression=compression)
        method = grpc.unary_unary_rpc_method_handler(lambda request, context: content)
        service, _, name = PREDICT[1:].partition("/")
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: method})])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    server.stop(None).wait()


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_an_answer_by_grpc_that_is_too_large(serve_by_grpc, compression, monkeypatch):
    monkeypatch.setattr(rest_client, "LARGEST_ANSWER", 3 * MIB)
    monkeypatch.setattr(rest_client, "EACH_ANSWER", MIB)
    model = GrpcClient(serve_by_grpc(bytes(2**23), compression), "htc", None, 9)
    for images, size in ((1, 3), (4, 4)):
        with pytest.raises(ModelFailed, match=rf"^127\.0\.0\.1:\d+: the answer has more than {size} MiB$"):
            model.predict([b"image"] * images)
    with pytest.raises(UserError, match=r"not an answer of htc_tf\.export's models"):
        model.predict([b"image"] * 9)  # it fits
    with pytest.raises(ModelFailed, match=r"refused with RESOURCE_EXHAUSTED: .*larger than max"):  # by the server
        model.predict([bytes(2**21)])


def test_an_answer_by_grpc_that_is_no_message(serve_by_grpc, caplog):
    with pytest.raises(UserError, match=r"not an answer of htc_tf\.export's models \('welcome' \.\.\.\)$"):
        GrpcClient(serve_by_grpc(b"welcome"), "htc", None, 9).predict([b"image"])
    assert not caplog.records  # gRPC logs a traceback
