"""REST client of TensorFlow Serving: JSON over HTTP, bytes in base64.

It sends rows ("instances") rather than columns: the server writes each number of a column on an indented line of its
own, which makes the same outputs several times as long.

Source: tensorflow_serving/g3doc/api_rest.md.
"""

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

from htc_tf.errors import ModelFailed, TooLate, UserError, reason_of
from htc_tf.serving import bounded_http

PORT = 8501
MIB = 2**20
# An image's answer by REST has 0.9 MB with 100 masks_28, and 50 KB with 100 run lengths (docs/serving.md): 4 MiB are
# enough for the images of a large batch, by gRPC too. A single one may have more: 100 masks of noise in 50 million
# pixels have 30 MB of run lengths, and their semantic map is smaller. An answer that does not fit fails, so the images
# of a batch are sent one by one. In memory JSON takes up to 28 times its bytes.
LARGEST_ANSWER, EACH_ANSWER = 64 * MIB, 4 * MIB
MESSAGE = 2047 * MIB  # the largest that protocol buffers can hold
ERROR = 2**14  # bytes of a refusal, or of a model's state, that are read
DAMAGED = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # that JSON of any content may raise


class RestClient:
    """A model in a server. Every failure is a UserError of one line, a ModelFailed if another request may succeed."""

    def __init__(self, address, model, version, timeout):
        """
        Args:
            address: "host", "host:port", or a URL like "https://host/prefix".
            model: the model's name in the server.
            version: int, or None for the newest.
            timeout: seconds to wait for an answer.
        """
        self.address, self.name, self.timeout = address, model, timeout
        self.status_url = f"{base_url(address)}/v1/models/{urllib.parse.quote(model, safe='')}"
        self.model_url = self.status_url + ("" if version is None else f"/versions/{version}")

    def predict(self, files):
        """Returns {output: array [B, ...]} for B encoded images; strings are arrays of bytes objects."""
        body = {"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}
        try:
            content = self.fetch(f"{self.model_url}:predict", max_answer(len(files)), json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            message = server_message(error)
            if error.code == 404:
                raise UserError(
                    f"{self.address}: no model {self.name!r} is ready there ({message}; {self.describe_versions()}): "
                    "name another with --model or --version, or wait until it is loaded"
                ) from None
            raise ModelFailed(f"{self.address}: refused with status {error.code}: {message}") from None
        try:
            rows = json.loads(content)["predictions"]
            return {name: read_values([row[name] for row in rows], name) for name in rows[0]}
        except (*DAMAGED, IndexError, AttributeError):
            raise not_an_answer(self.address, content) from None

    def describe_versions(self):
        """Returns the state of the model's versions, in words."""
        try:
            status = json.loads(self.fetch(self.status_url, ERROR))["model_version_status"]
            versions = ", ".join(f"version {version['version']} is {version['state']}" for version in status)
            return versions or "no version"
        except (urllib.error.HTTPError, UserError, *DAMAGED):
            return "no version known"

    def fetch(self, url, limit, body=None):
        """Sends a GET request, or a POST request with a body, and returns the answer's bytes, at most `limit`.

        Raises:
            urllib.error.HTTPError: the status is 400 or higher.
            ModelFailed: the answer is larger.
            UserError: there is no answer.
        """
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            return bounded_http.send(request, self.timeout, limit)
        except urllib.error.HTTPError:
            raise
        except bounded_http.TooLarge:
            raise too_large(self.address, limit) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self.too_late() from None
            raise UserError(
                f"{self.address}: no server answers ({getattr(error.reason, 'strerror', None) or error.reason}): start "
                "it, or name another with --server host:port"
            ) from None
        except TimeoutError:
            raise self.too_late() from None
        except (ValueError, http.client.InvalidURL) as error:
            raise no_address(self.address, error) from None
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{self.address}: no REST interface ({type(error).__name__}): TensorFlow Serving's is at port {PORT}, "
                "its gRPC port needs --grpc"
            ) from None

    def too_late(self):
        return TooLate(f"{self.address}: no answer within {self.timeout:g} seconds: allow more with --timeout")


def base_url(address):
    """Returns the URL of a server whose address is a host, host:port, or a URL by http or https."""
    has_scheme = "://" in address
    try:
        parts = urllib.parse.urlsplit(address if has_scheme else f"http://{with_port(address, PORT)}")
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise no_address(address, error) from None
    if parts.scheme not in ("http", "https"):
        raise no_address(address, f"a URL by {parts.scheme}")
    if not host or parts.query or parts.fragment or (parts.path and not has_scheme):
        raise no_address(address, "more than a host and a port" if host else "no host")
    return parts.geturl().rstrip("/")


def no_address(address, reason):
    advice = "give host, host:port, http://host:port or https://host"
    return UserError(f"--server {address} is not an address ({reason}): {advice}")


def max_answer(images):
    """Returns the most bytes that an answer for this many images may have."""
    return min(max(LARGEST_ANSWER, EACH_ANSWER * images), MESSAGE)


def too_large(address, limit):
    return ModelFailed(f"{address}: the answer has more than {limit / MIB:g} MiB")


def not_an_answer(address, content):
    return UserError(f"{address}: not an answer of htc_tf.export's models {excerpt(content)}")


def with_port(address, port):
    return address if ":" in address.rpartition("]")[2] else f"{address}:{port}"


def server_message(error):
    """Returns the message in the body of an HTTPError, on one line."""
    try:
        content = error.read(ERROR)
    except (OSError, http.client.HTTPException):  # the connection ended
        return str(error.reason)
    try:
        return reason_of(str(json.loads(content)["error"]))
    except DAMAGED:
        return f"{error.reason} {excerpt(content)}"


def excerpt(content):
    return f"({content[:60].decode(errors='replace')!r} ...)"


def read_values(values, name):
    """Converts nested lists of JSON to an array of float32, int32 or bytes objects."""
    if name.endswith("_bytes"):
        return np.array(decode_base64(values), object)
    array = np.array(values, object)  # NumPy's own strings have room for the longest in every row
    kinds = {type(value) for value in array.ravel().tolist()}
    if kinds == {str}:
        return np.frompyfunc(str.encode, 1, 1)(array)
    if kinds == {int}:
        wide = array.astype(np.int64)
        if (wide != wide.astype(np.int32)).any():
            raise OverflowError(f"more than 32 bits: {name}")
        return wide.astype(np.int32)
    if not kinds <= {int, float}:
        raise TypeError(f"neither numbers nor strings: {name}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused with the other infinite numbers
        return array.astype(np.float32)


def decode_base64(values):
    if isinstance(values, list):
        return [decode_base64(value) for value in values]
    return base64.b64decode(values["b64"])
