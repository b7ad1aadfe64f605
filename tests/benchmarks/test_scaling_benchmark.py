"""The benchmark of scaling: its arithmetic by a second way, and a step on two devices."""

import json
import sys

import pytest

from htc_tf import benchmark
from htc_tf.benchmarks import scaling
from htc_tf.benchmarks.measure import Measurement, Work, format_table
from htc_tf.benchmarks.scaling import predict_step, ring_bytes

BARE = ("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
TINY = ("--gin_file=tests/tiny.gin", "--height=64", "--width=64", "--batch=2")


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_bytes_of_a_ring_played_through(devices):
    """Each round every device sends one chunk to the next, until all have the sums of all chunks."""
    held = [[{device} for _ in range(devices)] for device in range(devices)]
    rounds = 0
    while any(len(chunk) < devices for chunks in held for chunk in chunks):
        sent = [set(held[device][(device - rounds) % devices]) for device in range(devices)]
        for device, chunk in enumerate(sent):
            held[(device + 1) % devices][(device - rounds) % devices] |= chunk
        rounds += 1
    assert ring_bytes(600.0, devices) == pytest.approx(600.0 / devices * rounds)


def test_a_step_by_hand():
    figures = {"images": 2, "image_flops": 3e12, "flops_per_second": 60e12, "gradient_bytes": 320e6}
    figures |= {"bytes_per_second": 10e9, "latency": 1e-5, "memory_per_second": 1e12, "passes": 10, "rest": 0.01}
    found = predict_step(8, **figures)
    assert found.compute == pytest.approx(0.1) and found.update == pytest.approx(0.0032)
    assert found.all_reduce == pytest.approx(2 * 7 / 8 * 0.032 + 14e-5)
    assert found.step == pytest.approx(0.1 + 0.056 + 0.00014 + 0.0032 + 0.01)
    assert found.images_per_second == pytest.approx(16 / found.step)
    alone = predict_step(1, **figures)
    assert alone.all_reduce == 0 and alone.efficiency == 1
    assert found.efficiency == pytest.approx(alone.step / found.step)
    half = predict_step(8, **figures, exposed=0.5)
    assert found.step - half.step == pytest.approx(found.all_reduce / 2)


def test_devices_are_compared_at_the_same_images(monkeypatch):
    def measured(work, devices):
        seconds = 0.2 if devices == 1 else 0.3
        summary = dict.fromkeys(("median", "mean", "p10", "p90", "minimum"), seconds)
        return Measurement("image", summary, summary, {"peak": 90}, {"gradient bytes": 1000, "images a step": 4})

    monkeypatch.setattr(scaling, "measure_in_fresh_process", measured)
    work = Work(64, 64, 4, "float32", None, 2, (1, 4))
    found = scaling.run(work)
    assert found.cpu_seconds["median"] == 0.2
    row = found.details["4 devices"]
    assert row["cpu_by_first"] == pytest.approx(1.5) and row["wall_ms_a_step"] == pytest.approx(1200)
    assert row["bytes_sent"] == 1500 and found.details["1 device"]["bytes_sent"] == 0
    table = format_table("scaling", work, found)
    assert "CPU 300.0 ms an image, 1.500 of the first row's; wall 1200 ms a step" in table
    assert json.loads(json.dumps(found._asdict()))["details"]["4 devices"] == row


def test_two_devices_in_a_fresh_process():
    work = Work(64, 64, 2, "float32", None, 2, (1, 2), ("tests/tiny.gin",), BARE)
    found = scaling.measure_in_fresh_process(work, 2)
    assert found.details["gradient bytes"] == 4 * found.details["parameters trained"] > 0
    assert found.unit == "image" and found.details["device"] == "CPU" and found.details["images a step"] == 2
    assert 0 < found.cpu_seconds["minimum"] <= found.cpu_seconds["median"]


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--devices", 0], "--devices: 0"),
        ([*TINY, "--devices", 3], "BATCH_SIZE = 2 is no multiple of the 3 devices"),
        ([*TINY, "--devices", 1, "--records", "nowhere"], "nowhere"),
        ([*TINY, "--devices", 1, "--gin_param", "NONSENSE=1"], "NONSENSE"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, flags, named):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--mode", "scaling", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line
