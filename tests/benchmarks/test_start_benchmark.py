"""The benchmark of the start writes a run that `predict` takes, and counts what other processes took."""

import sys

import pytest
from PIL import Image

from htc_tf import config
from htc_tf.benchmarks import start
from htc_tf.benchmarks.measure import Work, format_table
from htc_tf.errors import UserError
from htc_tf.inference.detector import restore
from htc_tf.run import Run

SECONDS = {"help": 0.25, "tensorflow": 3.0, "first": 9.0, "several": 13.0}


@pytest.mark.usefixtures("eagerly")
def test_commands_are_measured(tiny_experiment, monkeypatch):
    tiny_experiment()
    called = []

    def call(words):
        *_, last = map(str, words)
        name = "help" if last == "--help" else "tensorflow" if last == "import tensorflow" else "first"
        if name == "first":
            run = Run(words[words.index("--checkpoint") + 1])
            pictures = words[words.index("--input") + 1 :]
            name = "several" if len(pictures) > 1 else name
            if not called:
                experiment, _ = config.load([], [], run)
                restore(experiment, run)  # raises where a variable is missing
                called.append([Image.open(picture).size for picture in pictures])
        return SECONDS[name], 2 * SECONDS[name]

    monkeypatch.setattr(start, "call", call)
    work = Work(64, 96, 1, "float32", None, 2)
    found = start.run(work)
    assert called == [[(96, 64)]]
    assert found.unit == "first picture" and found.cpu_seconds["median"] == 9 and found.wall_seconds["minimum"] == 18
    assert found.details["help"]["median"] == 0.25 and found.details["later picture"]["median"] == 2
    assert "CPU 250 ms at the median" in format_table("start", work, found)


def test_processes_are_counted():
    busy, _ = start.call([sys.executable, "-S", "-c", "sum(range(5_000_000))"])
    idle, wall = start.call([sys.executable, "-S", "-c", "pass"])
    assert 0 < idle < busy and wall > 0 and start.children_peak_bytes() > 2**20
    with pytest.raises(UserError, match="ended with 3, and said last: no model"):
        start.call([sys.executable, "-S", "-c", "import sys; print('no model', file=sys.stderr); sys.exit(3)"])
