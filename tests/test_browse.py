"""python -m htc_tf.browse on tiny records: from its flags to the first image, and errors in one line."""

import json
import sys
import threading
import time
import urllib.request

import pytest

from htc_tf import browse
from htc_tf.web.server import Server

TINY = "tests/tiny.gin"


@pytest.fixture
def call(monkeypatch):
    """call("--records", ...): the command in this process."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["browse", *map(str, flags)])
        browse.main()

    return run


@pytest.mark.parametrize("flags", [[], ["--gin_file", TINY, "--gin_param", "flip.probability=0.0"]])
def test_the_first_image_over_http(call, tiny_data, monkeypatch, flags):
    answers = {}

    def ask(server, name):
        with urllib.request.urlopen(f"{server.address}api/{name}") as reply:
            answers[name] = json.load(reply)

    def serve(server):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        while not answers.get("dataset", {}).get("done"):
            time.sleep(0.02)
            ask(server, "dataset")
        for name in ("images", "images/0"):
            ask(server, name)
        server.shutdown()
        thread.join()
        server.server_close()

    monkeypatch.setattr(Server, "serve", serve)
    call("--records", tiny_data.records, "--port", 0, *flags)
    assert answers["images"] == {"total": 6, "positions": list(range(6))}
    assert answers["images/0"]["position"] == 0
    assert answers["dataset"]["augmentations"] == (["flip"] if flags else None)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--records", "nowhere"], "nowhere"),
        (["--gin_param", "NUM_CLASSES=8"], "--gin_file"),
        (["--gin_file", TINY, "--gin_param", "NUM_CLASSES=3"], "NUM_CLASSES = 3"),
        (["--port", "-1"], "--port: -1"),
    ],
)
def test_mistakes_are_one_line(call, tiny_data, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        call("--records", tiny_data.records, "--port", 0, *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line
