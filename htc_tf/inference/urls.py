"""Image files by URL: https alone, from public addresses, bounded in bytes and in time.

A URL may come from a stranger, in a list of URLs given to a command or in a request to a program that calls the model.
It must not reach what only this machine can reach. Private, local and reserved addresses are therefore refused, in
redirects too, and again on the connection itself, because a name server may give another address a moment later. A
proxy of the environment (HTTPS_PROXY) connects by its own rules. Passwords of ~/.netrc are not sent.
"""

import functools
import ipaddress
import re
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError

from htc_tf import request_errors
from htc_tf.data.image_io import MAX_BYTES, ImageError

TIMEOUT = (10, 30)  # seconds until a connection, and between two parts of an answer
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # its last 32 bits are the IPv4 address to which a translator connects
# IPv6 addresses that Python counts as global, of networks that nobody outside reaches or whose tunnels lead to IPv4.
NOT_PUBLIC = [
    ipaddress.ip_network(name) for name in ("64:ff9b:1::/48", "2002::/16", "fec0::/10", "::/96", "::ffff:0:0:0/96")
]
DEADLINE = 300  # seconds for a whole answer: a server may send one byte now and then
MAX_REDIRECTS = 5
CHUNK = 2**20  # bytes
# A compressed answer would not have the stated length.
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "htc_tf"}


def check(url: str) -> None:
    """Checks that a URL names a file by https.

    Raises:
        ImageError: It has another scheme, no host, or a password.
    """
    try:
        parts = urlsplit(url)
        scheme, host, user, _ = parts.scheme, parts.hostname, parts.username, parts.port
    except ValueError as error:
        raise ImageError(f"not a valid URL ({error})") from None
    if scheme != "https":
        raise ImageError(f"a URL by {scheme}, and only https is read: download it and give the file")
    if not host or user is not None:
        raise ImageError("a URL without a host" if not host else "a URL with a password: download it and give the file")


def fetch(url: str) -> bytes:
    """Downloads a file of at most `MAX_BYTES`.

    Raises:
        ImageError: The URL, or one to which it redirects, is not read, or does not give the file.
    """
    transport = _Transport()
    deadline = threading.Timer(DEADLINE, transport.cut)
    deadline.daemon = True
    deadline.start()
    try:
        return _fetch(url, transport)
    except requests.RequestException as error:
        reason = request_errors.describe(error)
    except HTTPError as error:  # of urllib3, while the answer is read
        reason = "no answer in time" if "timed out" in str(error) else "the connection was cut"
    except (OSError, ValueError) as error:  # a file of certificates that does not exist; a wrong Location
        reason = str(error)
    finally:
        deadline.cancel()
    raise ImageError(f"no complete answer in {DEADLINE} seconds" if transport.is_cut else reason)


def _fetch(url, transport):
    with requests.Session() as session:
        session.mount("https://", transport)
        session.auth = lambda request: request  # instead of ~/.netrc
        for _ in range(MAX_REDIRECTS + 1):
            check(url)
            with session.get(url, stream=True, allow_redirects=False, timeout=TIMEOUT, headers=HEADERS) as response:
                if not response.is_redirect:
                    return _read(response)
                url = urljoin(url, response.headers["Location"])
    raise ImageError(f"more than {MAX_REDIRECTS} redirects")


def _read(response):
    if response.status_code != 200:
        raise ImageError(f"HTTP {response.status_code} {response.reason}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ImageError("the server compresses the file, though it was not asked to")  # and may inflate without end
    stated = re.fullmatch(r"[0-9]{1,18}", response.headers.get("Content-Length", ""))
    stated = int(stated[0]) if stated else 0
    content = bytearray()
    while stated <= MAX_BYTES and (part := response.raw.read(CHUNK, decode_content=False)):
        content += part
        stated = max(stated, len(content))
    if stated > MAX_BYTES:
        raise ImageError(f"has more than the {MAX_BYTES} bytes that are read", "too_large")
    if len(content) < stated:
        raise ValueError("the connection was cut")
    return bytes(content)


def _check_public(address):
    found = ipaddress.ip_address(address)
    if found in NAT64:
        found = ipaddress.IPv4Address(int(found) % 2**32)
    if not found.is_global or found.is_multicast or any(found in network for network in NOT_PUBLIC):
        raise ImageError("a URL of a private or local address: download it and give the file")


class _Connection(HTTPSConnection):
    """A connection to a public address, known to its transport."""

    def __init__(self, transport: "_Transport", *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.transport = transport

    def _new_conn(self):
        is_direct = not self._tunnel_host  # else the other end is the proxy
        if is_direct:
            # Before connecting, so that no answer tells which ports of this network are open.
            with suppress(socket.gaierror):  # which `super` reports
                for *_, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
                    _check_public(address[0])
        sock = super()._new_conn()
        try:
            if is_direct:
                _check_public(sock.getpeername()[0])
            self.transport.watch(sock)
        except BaseException:
            sock.close()
            raise
        return sock


class _Transport(HTTPAdapter):
    """The transport of one download: its connections are `_Connection`s, which can be cut from another thread."""

    def __init__(self) -> None:
        self.twins, self.is_cut = [], False
        super().__init__()

    def init_poolmanager(self, *args, **options):
        super().init_poolmanager(*args, **options)
        self._replace_connections(self.poolmanager)

    def proxy_manager_for(self, *args, **options):
        return self._replace_connections(super().proxy_manager_for(*args, **options))

    def _replace_connections(self, manager):
        class Pool(HTTPSConnectionPool):
            ConnectionCls = functools.partial(_Connection, self)

        manager.pool_classes_by_scheme = {"https": Pool}
        return manager

    def watch(self, sock):
        """Keeps a second handle on a socket: TLS takes the first away, and closing it would not end a read."""
        self.twins.append(sock.dup())
        if self.is_cut:
            self.cut()

    def cut(self):
        """Ends all connections."""
        self.is_cut = True
        for twin in list(self.twins):
            with suppress(OSError):  # the other end has left
                twin.shutdown(socket.SHUT_RDWR)

    def close(self):
        for twin in self.twins:
            twin.close()
        super().close()
