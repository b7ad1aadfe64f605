"""Numbers on the command line: each flag has a range, and a value outside ends the command before any slow work."""

import argparse
import importlib

import pytest

from htc_tf import command_line
from htc_tf.errors import UserError

COMMANDS = {
    "htc_tf.benchmark": "--mode train",
    "htc_tf.browse": "--records x",
    "htc_tf.client": "--export x --input x",
    "htc_tf.explain": "--checkpoint x --input x --output x.png",
    "htc_tf.export": "--checkpoint x --output x",
    "htc_tf.predict": "--checkpoint x --input x --output x",
    "htc_tf.preview": "--records x --output x.png",
    "htc_tf.serve_demo": "--model x",
    "htc_tf.train": "--train_records x --workdir x",
    "pipelines.coco_to_tfrecord": "--annotations x --images x --output x",
    "pipelines.inspect_records": "--records x",
    "pipelines.shapes": "--output x",
}
OUTSIDE = """
htc_tf.benchmark --height 0 --width -3 --batch 0 --repeats 0 --objects 0 --devices 0 --batch_sizes 0
htc_tf.browse --port 65536 --port -1
htc_tf.client --threshold 30 --threshold nan --timeout 0 --timeout inf --batch 0 --batch 100000 --version -1
htc_tf.explain --threshold 30 --threshold -0.1 --objects 0 --width 599 --width 1000000
htc_tf.export --max_pixels 0 --max_pixels 99999999999999999999
htc_tf.predict --threshold 30 --threshold inf --batch 0 --batch 1000000000 --every 0
htc_tf.preview --images 0 --columns 0 --columns 1000000 --seed -1
htc_tf.serve_demo --port 65536 --max_megapixels 0 --max_megapixels nan --max_megabytes inf
htc_tf.train --seed -1 --seed 4294967296
pipelines.coco_to_tfrecord --shards 0 --seed -1 --max_bad_fraction 1.1 --max_pixels 0 --stuff_labels 0
pipelines.inspect_records --images 0
pipelines.shapes --train -1 --val -1 --seed -1 --workers 0
"""
CASES = [
    (words[0], *pair)
    for words in map(str.split, OUTSIDE.strip().splitlines())
    for pair in zip(words[1::2], words[2::2], strict=True)
]


def parse(monkeypatch, module, words):
    """Parses these words with the command's own parser."""
    command = importlib.import_module(module)
    monkeypatch.setattr("sys.argv", ["command", *words])
    if module in ("pipelines.coco_to_tfrecord", "pipelines.inspect_records"):
        return command.parse(words)
    return (command.parse_flags if module == "pipelines.shapes" else command.parse)()


@pytest.mark.parametrize(("module", "flag", "value"), CASES)
def test_a_number_out_of_range_is_refused(monkeypatch, module, flag, value):
    with pytest.raises(UserError, match=f"^{flag}: {value}: give a "):
        parse(monkeypatch, module, [*COMMANDS[module].split(), f"{flag}={value}"])


@pytest.mark.parametrize("module", COMMANDS)
def test_every_number_has_a_range(monkeypatch, module):
    bare, add = [], command_line.Parser.add_argument

    def record(self, *names, **options):
        if options.get("type") in (int, float):
            bare.append(names[0])
        return add(self, *names, **options)

    monkeypatch.setattr(command_line.Parser, "add_argument", record)
    with pytest.raises(SystemExit):
        parse(monkeypatch, module, ["--help"])
    assert not bare


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--checkpoint x --input x", "the following arguments are required: --output"),
        ("--checkpoint x --input x --output x --treshold 0.3", "unrecognized arguments: --treshold"),
        ("--checkpoint x --input x --output x --format gif", "--format: invalid choice: 'gif'"),
        ("--checkpoint x --input x --output=", "--output is empty: give a value"),
        ("--checkpoint x --input= --output x", "--input is empty: give a value"),
    ],
)
def test_every_mistake_is_one_line(monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["predict", *words.split()])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("htc_tf.predict").main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("error: ") and message in line


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (command_line.positive, {"1": 1, "12": 12}, ("0", "-1", "1.5", "nan", "inf", "", "ten")),
        (command_line.fraction, {"0": 0, "1": 1, "1e-3": 0.001}, ("-1e-9", "1.001", "30", "nan", "inf", "half")),
        (command_line.number(0.5), {"0.5": 0.5, "1e9": 1e9}, ("0.4", "inf", "nan")),
    ],
)
def test_argparse_types(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text}: give a "):
            kind(text)
