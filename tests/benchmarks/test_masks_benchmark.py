"""The benchmark of masks measures what it says, and compares with pycocotools' own encoding."""

import json
import sys

import pytest

from htc_tf import benchmark
from htc_tf.benchmarks import masks
from htc_tf.benchmarks.measure import Work
from htc_tf.errors import UserError


def test_the_command(monkeypatch, tmp_path, capsys):
    output = tmp_path / "masks.json"
    flags = ["--mode", "masks", "--height", "60", "--width", "80", "--batch", "5", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *flags, "--json", str(output)])
    benchmark.main()
    content = json.loads(output.read_text())
    assert content["unit"] == "image" and 0 < content["cpu_seconds"]["median"] < 60
    assert "5, their boxes of all sizes" in capsys.readouterr().out


def test_a_difference_is_an_error(monkeypatch):
    monkeypatch.setattr(masks, "encode_masks", lambda probabilities, *rest: [{"size": [60, 80], "counts": ""}] * 5)
    with pytest.raises(UserError, match="not those of the plain way"):
        masks.run(Work(60, 80, 5, "float32", None, 2))
