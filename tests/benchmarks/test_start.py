"""The benchmark of cold processes writes a run that `predict` accepts, and measures other processes."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.inference.detector import restore
from htc_tf.run import Run
from tests.benchmarks import start

SECONDS = {"help": 0.25, "tensorflow": 3.0, "first": 9.0, "several": 13.0, "training": 17.0}


@pytest.mark.usefixtures("eagerly")
def test_commands_are_measured(tiny_experiment, monkeypatch):
    tiny_experiment()
    called = []

    def call(words):
        *_, last = map(str, words)
        name = {"--help": "help", "import tensorflow": "tensorflow"}.get(last, "first")
        if "htc_tf.train" in words:
            assert "drawn" in words
            return SECONDS["training"], 1
        if name == "first":
            run = Run(words[words.index("--checkpoint") + 1])
            images = words[words.index("--input") + 1 :]
            name = "several" if len(images) > 1 else name
            if not called:
                experiment, _ = config.load([], [], run)
                restore(experiment, run)  # raises if a variable is missing
                called.append([Image.open(image).size for image in images])
        return SECONDS[name], 2 * SECONDS[name]

    monkeypatch.setattr(start, "call", call)
    monkeypatch.setattr(start.recorded, "make_data", lambda *arguments, **options: ("drawn", "val", "annotations"))
    found = start.run(SimpleNamespace(height=64, width=96, repeats=2))
    assert called == [[(96, 64)]]
    assert found.unit == "first image" and found.cpu_seconds["median"] == 9 and found.wall_seconds["minimum"] == 18
    assert found.details["help"]["median"] == 0.25 and found.details["later image"]["median"] == 2
    assert found.details["training"]["median"] == 17


def test_processes_are_counted():
    busy, _ = start.call([sys.executable, "-S", "-c", "sum(range(5_000_000))"])
    idle, wall = start.call([sys.executable, "-S", "-c", "pass"])
    assert 0 < idle < busy and wall > 0 and start.peak_bytes(children=True) > 2**20
    with pytest.raises(UserError, match="ended with status 3; its last line: no model"):
        start.call([sys.executable, "-S", "-c", "import sys; print('no model', file=sys.stderr); sys.exit(3)"])
