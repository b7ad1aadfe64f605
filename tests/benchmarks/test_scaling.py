"""The benchmark of scaling: its arithmetic by a second way, and a step on two devices."""

import pytest

from htc_tf.errors import UserError
from tests.benchmarks import scaling
from tests.benchmarks.scaling import predict_step, ring_bytes

TINY = ("--gin_file=tests/tiny.gin", "--height=64", "--width=64", "--batch=2", "--objects=2", "--repeats=2")
BARE = ("--gin_param=NUM_STAGES=1", "--gin_param=MASKS=False", "--gin_param=SEMANTIC=False")


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


def test_devices_are_compared_at_the_same_images():
    def measured(seconds):
        summary = dict.fromkeys(("median", "mean", "p10", "p90", "minimum"), seconds)
        figures = {"cpu_seconds": summary, "wall_seconds": summary, "memory_bytes": {"peak": 90}}
        return {**figures, "work": {"batch": 4}, "details": {"gradient bytes": 1000}}

    rows = scaling.compare({1: measured(0.8), 4: measured(1.2)})
    assert rows[4]["by_first"] == pytest.approx(1.5) and rows[4]["wall_ms_per_step"] == pytest.approx(1200)
    assert rows[4]["cpu_ms_median"] == pytest.approx(300)
    assert rows[4]["mb_sent"] == 1500 / 1e6 and rows[1]["mb_sent"] == 0


def test_other_flags_are_passed_on():
    flags, words = scaling.parse(["--devices", "1", "2", "--batch=8", "--gin_file", "tests/tiny.gin"])
    assert flags.devices == [1, 2] and words[-3:] == ["--batch=8", "--gin_file", "tests/tiny.gin"]
    assert "--gin_file=gin/htc_shapes.gin" not in words and "--gin_file=gin/htc_shapes.gin" in scaling.parse([])[1]


@pytest.mark.slow
def test_two_devices_in_a_fresh_process():
    found = scaling.measure_in_fresh_process([*TINY, *BARE], 2)
    assert found["details"]["gradient bytes"] == 4 * found["details"]["trained parameters"] > 0
    assert found["unit"] == "step" and found["details"]["devices"] == 2 and found["work"]["batch"] == 2
    assert 0 < found["cpu_seconds"]["minimum"] <= found["cpu_seconds"]["median"]


def test_a_number_that_cannot_be_measured():
    with pytest.raises(UserError, match="--devices 3: not measured"):
        scaling.measure_in_fresh_process([*TINY, *BARE], 3)
