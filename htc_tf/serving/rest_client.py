"""A model in TensorFlow Serving, asked through its REST interface: JSON over HTTP, bytes in base64.

Before it: `htc_tf.client` read the pictures. After it: `inference.exported_outputs` reads the arrays.

Rows ("instances") rather than columns: the server writes a column's numbers each on a line of its own, indented,
which makes the same answer several times as long.

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

PORT = 8501


class RestServer:
    """`predict` asks; every failure is a UserError of one line, a ModelFailed where another request may succeed."""

    def __init__(self, address, model, version, timeout):
        """
        Args:
            address: "host", "host:port", or a URL, such as "https://host/prefix".
            model: its name in the server.
            version: a number, or None for the newest.
            timeout: seconds to wait for an answer.
        """
        url = address if "://" in address else f"http://{with_port(address, PORT)}"
        self.address, self.name, self.timeout = address, model, timeout
        self.described = f"{url.rstrip('/')}/v1/models/{urllib.parse.quote(model, safe='')}"
        self.model = self.described + ("" if version is None else f"/versions/{version}")

    def predict(self, pictures):
        """A list of encoded pictures -> {output: array [B, ...]}; strings are objects, bytes each."""
        body = {"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures]}
        try:
            content = self.fetch(f"{self.model}:predict", json.dumps(body).encode())
        except urllib.error.HTTPError as error:
            message = server_message(error)
            if error.code == 404:
                raise UserError(
                    f"{self.address}: no model {self.name!r} is ready there ({message}; {self.describe()}): name "
                    "another with --model or --version, or wait until it is loaded"
                ) from None
            raise ModelFailed(f"{self.address}: refused with status {error.code}: {message}") from None
        try:
            rows = json.loads(content)["predictions"]
            return {name: read_values([row[name] for row in rows], name) for name in rows[0]}
        except (ValueError, KeyError, TypeError, IndexError):
            raise UserError(f"{self.address}: its answer is none of htc_tf.export's models {start(content)}") from None

    def describe(self):
        """What the server says of the model's versions."""
        try:
            status = json.loads(self.fetch(self.described))["model_version_status"]
            versions = ", ".join(f"version {version['version']} is {version['state']}" for version in status)
            return versions or "no version"
        except (urllib.error.HTTPError, UserError, ValueError, KeyError, TypeError):
            return "no version known"

    def fetch(self, url, body=None):
        """GET, or POST with a body -> bytes. Raises HTTPError for a status of 400 and more, else UserError."""
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self.late() from None
            raise UserError(
                f"{self.address}: no server answers ({getattr(error.reason, 'strerror', None) or error.reason}): start "
                "it, or name another with --server host:port"
            ) from None
        except TimeoutError:
            raise self.late() from None
        except (ValueError, http.client.InvalidURL) as error:
            raise UserError(
                f"--server {self.address} is no address ({error}): give host, host:port or http://host:port"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise UserError(
                f"{self.address}: no REST interface ({type(error).__name__}): TensorFlow Serving's is at port {PORT}, "
                "its gRPC port wants --grpc"
            ) from None

    def late(self):
        return TooLate(f"{self.address}: no answer within {self.timeout:g} seconds: allow more with --timeout")


def with_port(address, port):
    return address if ":" in address.rpartition("]")[2] else f"{address}:{port}"


def server_message(error):
    """What stands in the body of an HTTPError, on one line."""
    content = error.read()
    try:
        return reason_of(str(json.loads(content)["error"]))
    except (ValueError, KeyError, TypeError):
        return f"{error.reason} {start(content)}"


def start(content):
    return f"({content[:60].decode(errors='replace')!r} ...)"


def read_values(values, name):
    """Nested lists of JSON -> array: float32, int32, or objects, bytes each."""
    if name.endswith("_bytes"):
        return np.array(decode(values), object)
    array = np.array(values)
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8").astype(object)
    return array.astype({"f": np.float32, "i": np.int32}[array.dtype.kind])


def decode(values):
    return [decode(value) for value in values] if isinstance(values, list) else base64.b64decode(values["b64"])
