"""Web server of the two pages: the files of `pages/`, and routes that reply with JSON or an image.

It is made for one person on one machine. It listens on that machine only, unless asked otherwise, and refuses requests
of other sites' pages, which may be open in the same browser: by their Host and Origin headers. No content of a record,
an image or a request becomes a header. This file needs no TensorFlow.
"""

import errno
import gzip
import json
import re
import socketserver
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
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
REPLY_TYPES = ("application/json", "image/jpeg", "image/png")  # MIME types that a route may reply with
LOOPBACK = ("127.0.0.1", "localhost")
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Pages load nothing from other hosts. blob: is an image dropped on the page, data: an image encoded by the server.
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A reply that is opened by itself runs no script, whatever it contains.
REPLY_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
MIN_GZIP_BYTES = 1000
CHUNK = 1 << 16  # bytes read at a time
MAX_MESSAGE = 300  # characters of an error message
MAX_FIELDS = 32  # of a query
MAX_DISCARDED = 1 << 28  # bytes of a too large body that are read, so that the browser receives the error
MAX_CONNECTIONS = 64  # at a time


class HTTPError(UserError):
    """A request that cannot be served: a message of one line and an HTTP status."""

    def __init__(self, message, status=HTTPStatus.BAD_REQUEST):
        super().__init__(message)
        self.status = status


class Reply(NamedTuple):
    """A reply of another type than JSON."""

    body: bytes
    mime_type: str  # one of PAGE_TYPES or REPLY_TYPES


class Request(NamedTuple):
    """The first argument of a route's function; the groups of the route's pattern follow, as strings."""

    query: dict  # {name: last value}
    body: bytes


class Server(ThreadingHTTPServer):
    """HTTP server that listens from its construction, so that a port in use is reported before anything slow starts.

    Attributes:
        routes: {(method, pattern): function(Request, *groups)}. A function returns a Reply or an object that json can
            serialize; its UserError becomes {"error": message}.
        home: Name of the page at "/".
        max_bytes: Limit on the body of a request.
    """

    daemon_threads = True  # a browser's idle connection must not keep the program alive
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host, port, home, max_bytes=0):
        """Binds the address.

        Raises:
            UserError: The address is not available.
        """
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--host {host} --port {port}: {explain(error)}") from error
        self.routes, self.home, self.max_bytes = {}, home, max_bytes
        self.free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def server_bind(self):
        """Binds the address without HTTPServer's request for this machine's full name.

        Nothing reads that name, and a name server that does not answer, as on many Macs, takes seconds.
        """
        socketserver.TCPServer.server_bind(self)

    @property
    def address(self):
        host, port = self.server_address[:2]
        return f"http://{host}:{port}/"

    def serve(self):
        """Serves requests until Ctrl-C."""
        print(f"{self.address}  (press Ctrl-C to stop)", flush=True)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print("\nstopped")
        finally:
            self.server_close()

    def process_request(self, request, client_address):
        """Starts a thread for a connection, or closes it if there are too many."""
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
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):  # the browser closed the connection
            super().handle_error(request, client_address)


def to_json(content):
    """Returns a JSON Reply. Non-ASCII characters are escaped.

    Raises:
        ValueError: The content has NaN or an infinity, which browsers cannot parse.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Reply(text.encode(), "application/json")


def explain(error):
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; give another one, or --port 0 for any free port"
    return error.strerror or str(error)


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "htc_tf", ""
    timeout = 60  # seconds without a byte

    def do_GET(self):
        self.respond()

    def do_POST(self):
        self.respond()

    def respond(self):
        try:
            try:
                self.check_origin()
                body = self.read_body()
            except HTTPError:
                self.close_connection = True  # the rest of the body is not a request
                raise
            reply = self.route(body)
            reply = reply if isinstance(reply, Reply) else to_json(reply)
        except HTTPError as error:
            self.send_message(error, error.status)
        except UserError as error:
            self.send_message(error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            self.send_message("the server failed; see its terminal", HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self.send(*reply)

    def check_origin(self):
        """Refuses pages of other sites that use their own name for this machine, or send or embed anything.

        Raises:
            HTTPError: The request comes from such a page, or has no unique Host.
        """
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        if len(hosts) != 1:
            raise HTTPError("a request needs exactly one Host header")
        host, bound = hosts[0], self.server.server_address[0]
        if bound in LOOPBACK and not re.fullmatch(rf"({'|'.join(map(re.escape, LOOPBACK))})(:[0-9]{{1,5}})?", host):
            raise HTTPError(f"{host} is not the name of this server", HTTPStatus.FORBIDDEN)
        if origin not in (None, f"http://{host}"):
            raise HTTPError(f"requests of pages of {origin} are refused", HTTPStatus.FORBIDDEN)
        # Browsers send this header for embedded images and scripts, too, which have no Origin. Links are allowed.
        other_site = self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if other_site and self.headers.get("Sec-Fetch-Mode") != "navigate":
            raise HTTPError("requests of other sites' pages are refused", HTTPStatus.FORBIDDEN)

    def route(self, body):
        try:
            address = urllib.parse.urlsplit(self.path)
            fields = urllib.parse.parse_qs(address.query, max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise HTTPError(f"invalid address: {error}") from None
        query = {name: values[-1] for name, values in fields.items()}
        for (method, pattern), function in self.server.routes.items():
            match = re.fullmatch(pattern, address.path)
            if match and method == self.command:
                return function(Request(query, body), *match.groups())
        name = self.server.home if address.path == "/" else address.path.removeprefix("/")
        # Only the files of this listing are served, so a path cannot leave the folder.
        files = {path.name: path for path in PAGES.iterdir() if path.suffix in PAGE_TYPES}
        if name not in files or self.command != "GET":
            raise HTTPError(f"{address.path}: not found", HTTPStatus.NOT_FOUND)
        return Reply(files[name].read_bytes(), PAGE_TYPES[files[name].suffix])

    def read_body(self):
        """Returns the body of a request, at most the server's `max_bytes`; b"" for GET."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) > 1:
            raise HTTPError("a request needs exactly one Content-Length header", HTTPStatus.LENGTH_REQUIRED)
        if self.command == "GET":
            if lengths not in ([], ["0"]):
                raise HTTPError("a GET request has no body")
            return b""
        if not lengths or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise HTTPError("a request with a body needs a Content-Length header", HTTPStatus.LENGTH_REQUIRED)
        length, limit = int(lengths[0]), self.server.max_bytes
        if length > limit:
            # A browser reads the reply only after it has sent its body.
            rest = min(length, MAX_DISCARDED)
            while rest > 0 and (read := self.rfile.read(min(rest, CHUNK))):
                rest -= len(read)
            raise HTTPError(f"more than {limit / 1e6:g} megabytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(length)
        if len(body) < length:
            raise HTTPError(f"the body has {len(body)} bytes, but Content-Length is {length}")
        return body

    def send_error(self, code, message=None, explain=None):
        """Sends errors of the standard library, such as an invalid request line, as JSON."""
        self.close_connection = True
        self.send_message(message or HTTPStatus(code).phrase, HTTPStatus(code))

    def send_message(self, message, status=HTTPStatus.BAD_REQUEST):
        line = " ".join(str(message).split())
        line = line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"
        self.send(*to_json({"error": line}), status)

    def send(self, body, mime_type, status=HTTPStatus.OK):
        is_page = mime_type in PAGE_TYPES.values()
        if not is_page and mime_type not in REPLY_TYPES:
            raise ValueError(f"a route may not reply with {mime_type!r}")
        # There are no headers if the request line was invalid.
        accepts_gzip = "gzip" in getattr(self, "headers", {}).get("Accept-Encoding", "")
        compress = accepts_gzip and not mime_type.startswith("image/") and len(body) >= MIN_GZIP_BYTES
        body = gzip.compress(body, 4) if compress else body
        headers = {"Content-Type": f"{mime_type}; charset=utf-8" if mime_type.startswith("text/") else mime_type}
        headers |= {"Content-Length": str(len(body))} | ({"Content-Encoding": "gzip"} if compress else {})
        headers |= {"Content-Security-Policy": PAGE_POLICY if is_page else REPLY_POLICY}
        headers |= {"Connection": "close"} if self.close_connection else {}
        self.send_response(status)
        for name, value in (headers | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Logs nothing."""
