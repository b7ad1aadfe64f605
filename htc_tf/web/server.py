"""A small web server in one process: the files of `pages/`, and functions that answer with JSON or a picture.

Before: `web.demo` and `web.dataset_browser` say which address is which function. After: the scripts in `pages/`, in a browser.

It is meant for one person at one machine. It listens to that machine alone unless asked otherwise; a page of another
site, which a browser may hold as well, is refused: by the Host that the browser names, and by the Origin of what is
sent here. Nothing that a record, a picture or a request says becomes a header. No TensorFlow in this file.
"""

import errno
import gzip
import json
import re
import sys
import threading
import traceback
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from htc_tf.errors import UserError

PAGES = Path(__file__).resolve().parent / "pages"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
LOOPBACK = ("127.0.0.1", "localhost")
ANSWERS = ("application/json", "image/jpeg", "image/png")  # what a route may answer with
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Nothing from elsewhere: blob: is a picture that was dropped, data: one that the server drew.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Opened by itself, an answer runs nothing, whatever is in it.
ANSWER_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
WORTH_PACKING = 1000  # bytes
CHUNK = 1 << 16
LONGEST_LINE = 300  # characters of a refusal
MOST_FIELDS = 32  # of a query
MOST_PASSED_OVER = 1 << 28  # bytes of a body that is too large, read so that a browser hears the refusal
MOST_CONNECTIONS = 64  # at a time


class Refusal(UserError):
    """A request that cannot be met: one line for whoever made it, and HTTP's status."""

    def __init__(self, message, status=HTTPStatus.BAD_REQUEST):
        super().__init__(message)
        self.status = status


class Reply(NamedTuple):
    """A body that is no JSON."""

    body: bytes
    kind: str  # its MIME type, one of KINDS or ANSWERS


class Request(NamedTuple):
    """What a route's function is given first; after it come the groups of its pattern, as strings."""

    query: dict  # name -> the last value
    body: bytes


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made, so that a port in use is told before anything slow; answers in `serve`.

    Attributes:
        routes: {(method, pattern): function(Request, *groups) -> a Reply, or what json can write}. A UserError of the
            function becomes {"error": its line}.
        home: the name of the page at "/".
        largest_body: bytes.
    """

    daemon_threads = True  # a browser's idle connection must not keep the program alive
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, host, port, home, largest_body=0):
        """
        Raises:
            UserError: the address is not to be had.
        """
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--host {host} --port {port}: {explain(error)}") from error
        self.routes, self.home, self.largest_body = {}, home, largest_body
        self.free = threading.BoundedSemaphore(MOST_CONNECTIONS)

    @property
    def address(self):
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def serve(self):
        """Answers until Ctrl-C."""
        print(f"{self.address}  (Ctrl-C ends it)", flush=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print("\nended")
        finally:
            self.server_close()

    def process_request(self, request, client_address):
        """A thread for each connection, as long as there are few: one too many is closed."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):  # a browser that went away
            super().handle_error(request, client_address)


def to_json(content):
    """-> a Reply. Letters beyond ASCII are escaped.

    Raises:
        ValueError: it holds NaN or an infinity, which no browser reads.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Reply(text.encode(), "application/json")


def explain(error):
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; give another, or --port 0 for any that is free"
    return error.strerror or str(error)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "htc_tf", ""
    timeout = 60  # seconds without a byte

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        try:
            try:
                self.check_origin()
                body = self.read_body()
            except Refusal:
                self.close_connection = True  # what is left of the body is no request
                raise
            reply = self.route(body)
            reply = reply if isinstance(reply, Reply) else to_json(reply)
        except Refusal as refusal:
            self.refuse(refusal, refusal.status)
        except UserError as error:
            self.refuse(error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            self.refuse("the server failed; its terminal says why", HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self.send(*reply)

    def check_origin(self):
        """A page of another site may neither ask under a name of its own for this machine, nor send or embed anything.

        Raises:
            Refusal: it does, or the request does not say where it goes.
        """
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(hosts) != 1:
            raise Refusal("a request needs one Host header")
        host, bound = hosts[0], self.server.server_address[0]
        if bound in LOOPBACK and not re.fullmatch(rf"({'|'.join(map(re.escape, LOOPBACK))})(:[0-9]{{1,5}})?", host):
            raise Refusal(f"{host} is not the name of this server", HTTPStatus.FORBIDDEN)
        if origin not in (None, f"http://{host}"):
            raise Refusal(f"a page of {origin} may not ask here", HTTPStatus.FORBIDDEN)
        # Browsers say so of pictures and scripts, too, which have no Origin. Following a link is fine.
        elsewhere = self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if elsewhere and self.headers.get("Sec-Fetch-Mode") != "navigate":
            raise Refusal("a page of another site may not ask here", HTTPStatus.FORBIDDEN)

    def route(self, body):
        try:
            address = urllib.parse.urlsplit(self.path)
            fields = urllib.parse.parse_qs(address.query, max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise Refusal(f"the address cannot be read: {error}") from None
        query = {name: values[-1] for name, values in fields.items()}
        for (method, pattern), function in self.server.routes.items():
            match = re.fullmatch(pattern, address.path)
            if match and method == self.command:
                return function(Request(query, body), *match.groups())
        name = self.server.home if address.path == "/" else address.path.removeprefix("/")
        files = {path.name: path for path in PAGES.iterdir() if path.suffix in KINDS}
        if name not in files or self.command != "GET":
            raise Refusal(f"{address.path}: nothing is there", HTTPStatus.NOT_FOUND)
        return Reply(files[name].read_bytes(), KINDS[files[name].suffix])

    def read_body(self):
        """-> bytes, at most the server's `largest_body`; none of a GET."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1:
            raise Refusal("give the length of what is sent, once: Content-Length", HTTPStatus.LENGTH_REQUIRED)
        if self.command == "GET":
            if lengths not in ([], ["0"]):
                raise Refusal("a GET request has no body")
            return b""
        if not lengths or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise Refusal("the length of what is sent must be told", HTTPStatus.LENGTH_REQUIRED)
        length, limit = int(lengths[0]), self.server.largest_body
        if length > limit:
            # A browser listens only once it has sent all.
            rest = min(length, MOST_PASSED_OVER)
            while rest > 0 and (read := self.rfile.read(min(rest, CHUNK))):
                rest -= len(read)
            raise Refusal(f"more than {limit / 1e6:g} megabytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(length)
        if len(body) < length:
            raise Refusal(f"{len(body)} bytes came, {length} were announced")
        return body

    def send_error(self, code, message=None, explain=None):
        """What the standard library refuses, such as a line that is no request, in our words' form."""
        self.close_connection = True
        self.refuse(message or HTTPStatus(code).phrase, HTTPStatus(code))

    def refuse(self, reason, status=HTTPStatus.BAD_REQUEST):
        line = " ".join(str(reason).split())
        line = line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"
        self.send(*to_json({"error": line}), status)

    def send(self, body, kind, status=HTTPStatus.OK):
        page = kind in KINDS.values()
        if not page and kind not in ANSWERS:
            raise ValueError(f"a route may not answer with {kind!r}")
        # Before the first header is read there are none.
        packs = "gzip" in getattr(self, "headers", {}).get("Accept-Encoding", "") and not kind.startswith("image/")
        packed = packs and len(body) >= WORTH_PACKING
        body = gzip.compress(body, 4) if packed else body
        headers = {"Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind}
        headers |= {"Content-Length": str(len(body))} | ({"Content-Encoding": "gzip"} if packed else {})
        headers |= {"Content-Security-Policy": PAGE_POLICY if page else ANSWER_POLICY}
        headers |= {"Connection": "close"} if self.close_connection else {}
        self.send_response(status)
        for name, value in (headers | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Not a line a request."""
