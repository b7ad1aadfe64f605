"""The benchmark command measures a tiny network, its training and its input, and writes what it prints."""

import json
import sys
from types import SimpleNamespace

import pytest

from htc_tf import benchmark, measurement
from htc_tf.errors import UserError
from htc_tf.experiment import Experiment
from htc_tf.measurement import Mode, configure, describe, make_parser, measure

TINY = ("--gin_file=tests/tiny.gin", "--height=64", "--width=64")
BARE = ("--gin_param=NUM_STAGES=1", "--gin_param=MASKS=False", "--gin_param=SEMANTIC=False")


@pytest.fixture
def call(monkeypatch):
    """call(flag, ...) runs the command."""

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, flags)])
        benchmark.main()

    return call


def test_measure_counts_units_and_leaves_the_warm_up_out():
    calls = []
    found = measure(lambda: calls.append(sum(range(20000))), "image", units=4, repeats=5, warmup=2, details={"a": "b"})
    assert len(calls) == 7 and found.details == {"a": "b"}
    for seconds in (found.cpu_seconds, found.wall_seconds):
        assert 0 <= seconds["minimum"] <= seconds["p10"] <= seconds["median"] <= seconds["p90"]
    assert 0 < found.memory_bytes["last"] <= 2 * found.memory_bytes["peak"]


def test_details_as_text():
    assert describe({"p50_ms": 12.3456, "a": {"b": 1234567}}) == "p50 ms 12.35, a b 1,234,567"
    assert describe([1, 2]) == "[1, 2]" and describe(1234.5) == "1,234" and describe(6.4e10) == "6.4e+10"


@pytest.mark.usefixtures("eagerly")
def test_inference(call, tmp_path, capsys):
    output = tmp_path / "inference.json"
    sizes = ("--gin_file=tests/tiny.gin", "--height=50", "--width=64", "--batch=2", "--repeats=2")
    call("--mode=inference", *sizes, "--gin_param=NUM_STAGES=1", f"--json={output}")
    content = json.loads(output.read_text())
    assert content["unit"] == "image" and 0 < content["cpu_seconds"]["median"] < 60
    assert content["details"] == {"compiled": "as a graph", "detections per image": 10}
    printed = capsys.readouterr().out
    assert "inference: 50 x 64, batch 2, float32; ms per image" in printed and f"wrote {output}" in printed


@pytest.mark.usefixtures("eagerly")
def test_train(call, tmp_path, capsys):
    output = tmp_path / "train.json"
    call("--mode=train", *TINY, "--batch=2", "--objects=3", "--repeats=1", *BARE, f"--json={output}")
    content = json.loads(output.read_text())
    details = content["details"]
    assert content["unit"] == "step" and 0 < content["cpu_seconds"]["median"] < 60
    assert details["gradient bytes"] == 4 * details["trained parameters"] > 0
    assert "train: 64 x 64, batch 2, float32" in capsys.readouterr().out


def test_a_length_in_epochs_needs_no_records(tmp_path):
    own, parser = tmp_path / "own.gin", make_parser("benchmark", "", benchmark.MODES)
    own.write_text("include 'tests/tiny.gin'\nEPOCHS = 3\n")
    flags = parser.parse_args([f"--gin_file={own}", "--gin_param=EPOCHS=2", *TINY[1:], "--mode=train", "--batch=2"])
    configure(flags, benchmark.MODES["train"])
    schedule = Experiment().optimizer.schedule
    assert schedule.steps == 1000 and float(schedule(500)) > 0


@pytest.mark.parametrize(
    ("flags", "precision"),
    [([], "float32"), (["--gin_param=PRECISION='bfloat16'"], "bfloat16"), (["--precision=bfloat16"], "bfloat16")],
)
def test_the_precision_is_the_configurations_or_the_flags(flags, precision):
    parsed = make_parser("benchmark", "", benchmark.MODES).parse_args([*TINY, "--mode=train", "--batch=2", *flags])
    configure(parsed, benchmark.MODES["train"])
    assert parsed.precision == Experiment().precision == precision


def test_input(call, tiny_data, tmp_path, capsys):
    flags = [*TINY[1:], "--records", tiny_data.records, "--repeats", 2, "--batch", 4]
    call("--mode", "input", *flags, "--json", tmp_path / "new" / "input.json")
    content = json.loads((tmp_path / "new" / "input.json").read_text())
    assert content["mode"] == "input" and content["unit"] == "image" and content["work"]["batch"] == 4
    assert content["cpu_seconds"]["median"] > 0 and content["details"]["epochs"] == round(2 * 20 / 6, 1)
    assert "CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--mode", "nonsense"], "--mode nonsense is unknown; choose from inference"),
        (["--mode", "input", "--batch", "0"], "--batch: 0"),
        (["--mode", "input", "--precision", "half"], "--precision half"),
        (["--mode", "input", "--records", "nowhere"], "nowhere"),
        (["--mode", "input", "--gin_param", "NONSENSE=1"], "--mode input is not configured by gin"),
        (["--mode", "train", *TINY, "--objects", "9"], "--objects 9 exceeds MAX_OBJECTS = 8"),
        (["--mode", "train", *TINY, "--batch", "2", "--devices", 3], "BATCH_SIZE = 2 is not a multiple of the 3"),
        (["--mode", "train", *TINY, "--gin_param", "NONSENSE=1"], "NONSENSE"),
        (["--mode", "train", "--devices", 0], "--devices: 0"),
        (["--mode", "inference", "--devices", 2, "--objects", 3], "does not read --objects, --devices: leave"),
        (["--mode", "train", "--records", "records"], "--mode train does not read --records"),
        (["--mode", "serving", "--export", "export", "--devices", 2], "--mode serving does not read --devices"),
    ],
)
def test_mistakes_are_one_line(call, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        call(*flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line


def test_figures_are_printed_before_the_file_is_written(tmp_path, capsys):
    """A file that cannot be written does not lose a long measurement."""
    took = measure(lambda: None, "step", 1, 1, warmup=0)
    flags = SimpleNamespace(mode="any", height=1, width=1, batch=1, precision="float32", json=tmp_path)
    flags.gin_file = flags.gin_param = ()
    with pytest.raises(UserError, match=f"--json {tmp_path} cannot be written: Is a directory"):
        measurement.run(flags, {"any": Mode("about", lambda flags: took)})
    assert "any: 1 x 1, batch 1, float32; ms per step" in capsys.readouterr().out
