"""HTTP requests with one deadline for all of their parts, and a limit on the bytes of the answer.

The timeout of a socket bounds a single call of the system: it begins again with each part of an answer, so a server
that sends a byte now and then is waited for as long as it likes.
"""

import functools
import http.client
import io
import time
import urllib.request

PART = 2**20  # bytes of an answer that are read at once
SENT = 2**16  # bytes of a request that are sent at once: TLS begins its timeout again with each record


class TooLarge(Exception):
    """The answer has more bytes than the limit."""


def send(request, timeout, limit):
    """Sends a request and returns the answer's bytes.

    Args:
        request: a urllib.request.Request of a URL by http or https.
        timeout: seconds for all of it: connection, request, redirects and answer.
        limit: the most bytes that an answer may have.

    Raises:
        urllib.error.HTTPError: the status is 400 or higher; its body is read before the same deadline.
        TimeoutError: the deadline has passed.
        TooLarge: the answer is larger.
        OSError, http.client.HTTPException, ValueError: as of urllib.request.urlopen.
    """
    with _opener(_Deadline(timeout)).open(request) as response:
        stated = response.length or 0
        parts, size = [], 0
        while stated <= limit and (part := response.read(PART)):
            parts.append(part)
            size += len(part)
            stated = max(stated, size)
        if stated > limit:
            raise TooLarge
        if response.length:  # which `read` with an argument does not report
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(parts)


class _Deadline:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def remaining(self):
        """Returns the seconds that are left, or raises TimeoutError."""
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds


def _opener(deadline):
    """Returns urllib's opener without its handlers of files, FTP and data, to which a redirect might lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        _Handler(deadline),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects without reading their bodies, which may be endless."""

    def http_error_302(self, request, file, *arguments):
        file.close()
        return super().http_error_302(request, io.BytesIO(), *arguments)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Handler(urllib.request.AbstractHTTPHandler):
    """Opens URLs by http and https with connections that keep the deadline."""

    def __init__(self, deadline):
        super().__init__()
        self.deadline = deadline

    def http_open(self, request):
        return self.do_open(functools.partial(_Connection, self.deadline), request)

    def https_open(self, request):
        return self.do_open(functools.partial(_SecureConnection, self.deadline), request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Timed:
    """Mixed into a connection of http.client: before each call of the system the socket's timeout is what remains."""

    def __init__(self, deadline, host, **options):
        super().__init__(host, **options)
        self.deadline, self.response_class = deadline, functools.partial(_Response, deadline)

    def connect(self):
        self.timeout = self.deadline.remaining()  # for each address of the host
        super().connect()

    def send(self, data):
        if self.sock is None:
            self.connect()
        for start in range(0, len(data), SENT):
            self.sock.settimeout(self.deadline.remaining())
            super().send(data[start : start + SENT])


class _Connection(_Timed, http.client.HTTPConnection):
    pass


class _SecureConnection(_Timed, http.client.HTTPSConnection):
    pass


class _Response(http.client.HTTPResponse):
    def __init__(self, deadline, sock, *arguments, **options):
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, deadline))


class _Reader(io.RawIOBase):
    """What a socket receives before the deadline."""

    def __init__(self, sock, deadline):
        self.sock, self.deadline = sock, deadline
        self.file = sock.makefile("rb", buffering=0)  # keeps the socket open after its connection has closed it

    def readable(self):
        return True

    def readinto(self, buffer):
        self.sock.settimeout(self.deadline.remaining())
        return self.file.readinto(buffer)

    def close(self):
        self.file.close()
        super().close()
