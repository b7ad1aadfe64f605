"""A fake TensorFlow Serving with its documented REST and gRPC interfaces, and a small model with an export's outputs.

test_model_server.py uses the real server, if this machine has one.
"""

import base64
import contextlib
import json
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import grpc
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.serving.messages import PREDICT, PredictRequest, PredictResponse, read_arrays
from tests.benchmarks.payload import predict_response, rest_bytes

NAMES = ("person", "traffic light", "Käse")
OBJECTS = 3  # rows per image: two detections, and one row of padding


class ToyModel(tf.Module):
    """Finds a person at (0, 0) and a cheese in the middle of every image, and refuses other files.

    A file that begins with "fail" makes the whole request fail, like an error in the model's graph.
    """

    def __init__(self):
        super().__init__()
        self.names = tf.constant(NAMES)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve(self, image_bytes):
        specs = {
            "boxes": tf.TensorSpec([OBJECTS, 4], tf.float32),
            "scores": tf.TensorSpec([OBJECTS], tf.float32),
            "classes": tf.TensorSpec([OBJECTS], tf.int32),
            "masks_28": tf.TensorSpec([OBJECTS, 28, 28], tf.float32),
            "num_detections": tf.TensorSpec([], tf.int32),
            "sizes": tf.TensorSpec([2], tf.int32),
            "status": tf.TensorSpec([], tf.string),
        }
        answers = tf.map_fn(self.answer, image_bytes, fn_output_signature=specs)
        return {**answers, "class_names": tf.gather(self.names, answers["classes"])}

    def answer(self, encoded):
        sound = tf.strings.regex_full_match(tf.io.encode_base64(tf.strings.substr(encoded, 0, 3)), "iVBO|_9j_")

        def measure():
            return tf.shape(tf.io.decode_image(encoded, 3, expand_animations=False))[:2]

        size = tf.cond(sound, measure, lambda: tf.zeros([2], tf.int32))
        fails = tf.cast(tf.strings.substr(encoded, 0, 4) == "fail", tf.int32)
        size += tf.gather([0], [9 * fails])
        share = tf.constant([[0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75], [0, 0, 0, 0]])
        found = tf.cast(sound, tf.float32)
        ramp = tf.range(28, dtype=tf.float32) / 27  # the right half of each box
        return {
            "boxes": share * tf.cast(tf.tile(size, [2]), tf.float32),
            "scores": tf.constant([0.9, 1 / 3, 0.0]) * found,
            "classes": tf.constant([0, 2, 0]),
            "masks_28": tf.tile(ramp[tf.newaxis, tf.newaxis], [OBJECTS, 28, 1]),
            "num_detections": tf.where(sound, 2, 0),
            "sizes": size,
            "status": tf.where(sound, "", "neither PNG nor JPEG"),
        }


@pytest.fixture(scope="session")
def toy_export(tmp_path_factory):
    """EXPORT with the toy model as its version 3."""
    export = tmp_path_factory.mktemp("toy")
    model = ToyModel()
    tf.saved_model.save(model, str(export / "3"), signatures={"serving_default": model.serve})
    return export


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with a.png and b.png of different sizes, and text.png, which is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for name, (height, width) in (("a", (40, 60)), ("b", (64, 32))):
        Image.new("RGB", (width, height), (128, 130, 126)).save(folder / f"{name}.png")
    (folder / "text.png").write_text("not an image")
    return folder


class FakeServer:
    """Serves the model `htc` of an export at two ports, as the server does; `requests` are those received."""

    def __init__(self, export, name="htc"):
        (self.version,) = (path.name for path in export.iterdir())
        self.loaded = tf.saved_model.load(str(export / self.version))
        self.name, self.requests, self.delay = name, [], threading.Event()
        self.web = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        self.rpc = grpc.server(futures.ThreadPoolExecutor(2))
        method = grpc.unary_unary_rpc_method_handler(
            self.predict_message, PredictRequest.FromString, PredictResponse.SerializeToString
        )
        service, _, name = PREDICT[1:].partition("/")
        self.rpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: method})])
        self.grpc = f"127.0.0.1:{self.rpc.add_insecure_port('127.0.0.1:0')}"
        self.rpc.start()
        self.rest = f"127.0.0.1:{self.web.server_port}"

    def stop(self):
        self.delay.set()
        self.web.shutdown()
        self.web.server_close()
        self.rpc.stop(None).wait()

    def run(self, image_bytes):
        if any(b"slow" in file for file in image_bytes):
            self.delay.wait(5)
        outputs = self.loaded.signatures["serving_default"](image_bytes=tf.constant(image_bytes))
        return {name: value.numpy() for name, value in outputs.items()}

    def predict_message(self, request, context):
        self.requests.append(request)
        spec = request.model_spec
        if spec.name != self.name or spec.version.value not in (0, int(self.version)):
            asked = f"Specific({spec.name}, {spec.version.value})" if spec.version.value else f"Latest({spec.name})"
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        inputs = read_arrays(request.inputs)
        if set(inputs) != {"image_bytes"}:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input tensor alias not found in signature")
        try:
            return predict_response(self.run(inputs["image_bytes"].tolist()))
        except tf.errors.OpError as error:
            return context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    def handler(self):
        server = self
        model = f"/v1/models/{self.name}"
        versions = (model, f"{model}/versions/{self.version}")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path not in versions:
                    return self.reply(404, {"error": f"Could not find any versions of model {self.path}"})
                status = {"error_code": "OK", "error_message": ""}
                version = {"version": server.version, "state": "AVAILABLE", "status": status}
                return self.reply(200, {"model_version_status": [version]})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                path, _, verb = self.path.rpartition(":")
                if verb != "predict":
                    return self.reply(404, {"error": f"Malformed request: POST {self.path}"})
                if path not in versions:
                    return self.reply(404, {"error": f"Servable not found for request: Latest({path[11:]})"})
                server.requests.append(json.loads(body))
                rows = server.requests[-1].get("instances")
                if not rows:
                    return self.reply(400, {"error": "Missing 'inputs' or 'instances' key"})
                try:
                    return self.reply(200, rest_bytes(server.run([base64.b64decode(row["b64"]) for row in rows])))
                except tf.errors.OpError as error:
                    return self.reply(400, {"error": error.message})

            def reply(self, status, content):
                content = content if isinstance(content, bytes) else json.dumps(content, indent=4).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # the client may have given up
                    self.wfile.write(content)

            def log_message(self, *_):
                """Nothing on standard error."""

        return Handler


@pytest.fixture(scope="session")
def fake_server(toy_export):
    server = FakeServer(toy_export)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def impostor():
    """The address of a web server that is not TensorFlow Serving."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def log_message(self, *_):
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def call(monkeypatch, capsys):
    """call(module, *flags) runs a command in this process and returns its out, err and status."""

    def run(module, *flags):
        monkeypatch.setattr("sys.argv", ["command", *map(str, flags)])
        status = 0
        try:
            module.main()
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return SimpleNamespace(out=printed.out, err=printed.err, status=status)

    return run
