"""FLOPs of a network's parts, counted by hand; the machine's rates by a known clock; both in the command."""

import itertools
import json
import sys

import pytest
import tensorflow as tf

from tests.benchmarks import machine, measure
from tests.benchmarks.arithmetic import Flop, count, count_parts


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("NUM_STAGES=2")[1]


@pytest.fixture(scope="module")
def inference(model):
    return count_parts(model, 64, 64, images=2, rois=[10, 10], masks=3)


def test_a_function_by_hand():
    first, second = tf.Variable(tf.ones([5, 7])), tf.Variable(tf.ones([7, 3]))

    def layers(x):
        return tf.nn.relu(x @ first) @ second

    each = 2 * 4 * 5 * 7, 2 * 4 * 7 * 3
    assert count(layers, [[4, 5]])[0] == Flop(sum(each), 0)
    # The network's input requires no gradient, a frozen layer none of its weights.
    assert count(layers, [[4, 5]], [first, second], first=True)[0] == Flop(sum(each), each[0] + 2 * each[1])
    assert count(layers, [[4, 5]], [second], first=True)[0] == Flop(sum(each), each[1])
    assert count(layers, [[4, 5]], [first, second])[0] == Flop(sum(each), 2 * sum(each))


def test_rpn(inference):
    cells = sum(side * side for side in (16, 8, 4, 2, 1))
    assert inference["RPN"] == Flop(2 * 2 * cells * 16 * (9 * 16 + 3 + 12), 0)


def test_box_heads(inference):
    one = 7 * 7 * 16 * 16 + 16 * 16 + 16 * (8 + 1) + 16 * 4
    assert inference["box stages"] == Flop(10 * 2 * 2 * one, 0)


def test_masks(model, inference):
    cells, channels = 14 * 14, 16
    convolutions, flow = cells * 9 * channels * channels, cells * channels * channels
    logits = cells * 4 * channels * channels + 4 * cells * channels * 8
    assert inference["masks"] == Flop(3 * 2 * (2 * (convolutions + logits) + flow), 0)
    # In training the first stage's positives pass its own head only, the second's the convolutions of both.
    trained = count_parts(model, 64, 64, images=1, rois=[16, 16], masks=[3, 2], training=True)["masks"]
    forward = 2 * (3 * (convolutions + logits) + 2 * (2 * convolutions + flow + logits))
    assert trained == Flop(forward, 2 * forward)


@pytest.mark.slow
def test_scnet(tiny_scnet):
    """One mask head of two convolutions; each of its RoIs also passes the last box head's hidden layers."""
    _, model = tiny_scnet()
    cells, channels = 14 * 14, 16
    head = cells * 18 * channels * channels + cells * 4 * channels * channels + 4 * cells * channels * 8
    relay = 7 * 7 * channels * 16 + 16 * 16 + 16 * 7 * 7 * channels
    inference = count_parts(model, 64, 64, images=2, rois=[10] * 3, masks=3)
    assert inference["masks"] == Flop(3 * 2 * (head + relay), 0)
    assert inference["global context"] == Flop(2 * 2 * 18 * channels * channels, 0)  # P6 is one cell
    trained = count_parts(model, 64, 64, images=1, rois=[16] * 3, masks=[0, 0, 4], training=True)
    assert trained["masks"] == Flop(4 * 2 * (head + relay), 4 * 4 * (head + relay))
    assert trained["global context"].forward == 2 * (18 * channels * channels + channels * 8)


def test_frozen_layers_have_no_backward_pass(model):
    image, first = [[1, 64, 64, 3]], model.backbone.stem
    stem = count(first, image, first.trainable_variables, first=True)[0]
    # Nothing needs the gradient of the image.
    assert stem == Flop(2 * 32 * 32 * 7 * 7 * 3 * 8, 2 * 32 * 32 * 7 * 7 * 3 * 8)
    assert count(first, image, [], first=True)[0] == Flop(stem.forward, 0)


@pytest.fixture
def clock(monkeypatch):
    """Each pair of readings is two seconds apart, but half a second in the third attempt."""
    apart = itertools.cycle([2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0])
    readings = itertools.chain.from_iterable((0.0, seconds) for seconds in apart)
    monkeypatch.setattr(machine.time, "process_time", lambda: next(readings))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products(clock, precision):
    assert machine.matmul_rate(precision, side=8) == 2 * 8**3 / 0.5


def test_copies(clock, monkeypatch):
    copied = []
    monkeypatch.setattr(machine.np, "copyto", lambda target, source: copied.append(len(source)))
    assert machine.copy_rate(1000) == 2 * 1000 / 0.5
    assert copied == [1000] * (machine.ATTEMPTS + 1)


def test_a_share_of_the_limit():
    share = machine.share_of_limit("FLOP", 900e9, 60e9, 20.0)
    assert share["limit_seconds"] == 15 and share["share"] == 0.75 and share["unit"] == "FLOP"


@pytest.fixture
def details_of(monkeypatch, tmp_path, eagerly):
    """details_of(mode, flag, ...) runs the command and returns its JSON and its details."""
    rates = itertools.cycle([1e9, 2e9, 9e9])
    monkeypatch.setattr(machine, "matmul_rate", lambda precision: next(rates))
    monkeypatch.setattr(machine, "copy_rate", lambda: 2e9)

    def run(mode, *flags):
        output = tmp_path / "figures.json"
        tiny = ["--gin_file=tests/tiny.gin", "--width=64", "--batch=2", "--gin_param=NUM_STAGES=1"]
        monkeypatch.setattr(sys, "argv", ["measure", f"--mode={mode}", *tiny, *flags, f"--json={output}"])
        measure.main()
        content = json.loads(output.read_text())
        return content, content["details"]

    return run


def test_inference_and_its_parts(details_of):
    content, details = details_of("inference", "--height=50", "--repeats=3")
    assert (details["proposals per image"], details["detections per image"]) == (24, 10)
    # The median of the rates before the three steps.
    assert details["machine"] == {"matmul_rate": 2e9, "copy_rate": 2e9}
    parts = {name: part for name, part in details.items() if isinstance(part, dict) and "cpu_ms_per_image" in part}
    assert list(parts)[:3] == ["resizing", "backbone and FPN", "RPN"] and list(parts)[-1] == "pasting"
    assert sum(part["share"] for name, part in parts.items() if "RoIAlign" not in name) == pytest.approx(1)
    share = details["share of the limit"]
    assert share["amount"] == pytest.approx(sum(part["flop_per_image"] for part in parts.values()))
    assert share["share"] == pytest.approx(share["amount"] / 2e9 / content["cpu_seconds"]["median"])


@pytest.mark.slow
def test_training_and_its_flops(details_of):
    flags = ["--height=64", "--objects=3", "--repeats=1", "--gin_param=RoISampler.mask_limit=None"]
    content, details = details_of("train", *flags)
    assert content["unit"] == "step" and 0 < content["cpu_seconds"]["median"] < 60
    # Half of an image's 16 RoIs are positive.
    assert details["RoIs per stage"] == [32]
    assert details["positive RoIs"] == details["positives for masks"] == [16]
    assert details["positives per stage"] == "[16]"
    parts = [part for part in details.values() if isinstance(part, dict) and "backward" in part]
    total = sum(part["forward"] + part["backward"] for part in parts)
    assert len(parts) == 5 and details["share of the limit"]["amount"] == pytest.approx(total)
