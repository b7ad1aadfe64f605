"""python -m htc_tf.serve_demo on a tiny model: from its flags to a response, and errors in one line."""

import json
import socket
import sys
import threading
import urllib.request

import pytest

import htc_tf
from htc_tf import serve_demo
from htc_tf.inference.detector import Detector
from htc_tf.inference.predictor import Predictor
from htc_tf.web.server import Server


@pytest.fixture
def call(monkeypatch):
    """Returns call("--model", ...), which runs the command in this process."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["serve_demo", *map(str, flags)])
        serve_demo.main()

    return run


def test_an_image_over_http(call, tiny_model, tiny_data, monkeypatch, eagerly):
    experiment, model = tiny_model()
    categories = [{"id": index + 1, "name": f"class {index}"} for index in range(8)]
    predictor = Predictor(Detector(model, experiment), categories)
    image = tiny_data.images / f"{1:012d}.jpg"
    loaded, responses = [], []

    def load(*arguments):
        loaded.append(arguments)
        return predictor

    def serve(server):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        for name, body in (("model", None), ("detect", image.read_bytes())):
            with urllib.request.urlopen(f"{server.address}api/{name}", body) as response:
                responses.append(json.load(response))
        server.shutdown()
        thread.join()
        server.server_close()

    monkeypatch.setattr(htc_tf, "load", load, raising=False)
    monkeypatch.setattr(Server, "serve", serve)
    call("--model", "some/run", "--gin_param", "NUM_STAGES=1", "--port", 0, "--max_megapixels", 2)
    assert loaded == [("some/run", [], ["NUM_STAGES=1"], False)]
    described, found = responses
    assert described["name"] == "run" and described["max_pixels"] == 2_000_000
    expected = predictor(image)
    assert found["objects"] == json.loads(json.dumps(expected.to_coco())) != []
    assert (found["height"], found["width"]) == expected.image.shape[:2]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--max_megabytes", "0"], "--max_megabytes: 0"),
        (["--max_megapixels", "nan"], "--max_megapixels: nan"),
        (["--port", "70000"], "--port: 70000"),
        (["--port", "0"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(call, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        call("--model", "nowhere", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line


def test_a_port_in_use_is_reported_before_the_model_is_loaded(call, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit) as stop:
        call("--model", "nowhere", "--port", other.getsockname()[1])
    assert stop.value.code == 2 and "in use" in capsys.readouterr().err
