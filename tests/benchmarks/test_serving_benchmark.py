"""The benchmark of an exported model: requests of every batch size, and the bytes of the parts of its answer."""

import json

import pytest
from htc_tf.benchmarks.payload import grpc_bytes, rest_bytes
from htc_tf.benchmarks.serving import Requests, weigh

from htc_tf import benchmark
from htc_tf.inference.exported import LocalClient


def test_the_command(call, toy_export, tmp_path):
    flags = ["--height", 64, "--width", 96, "--repeats", 3, "--json", tmp_path / "serving.json"]
    done = call(benchmark, "--mode", "serving", "--export", toy_export, "--batch_sizes", 1, 4, *flags)
    assert done.status == 0, done.err
    for title in ("serving: 64 x 96, batch 1", "ms for one picture", "loading", "batch 4", "masks_28", "by gRPC"):
        assert title in done.out
    content = json.loads((tmp_path / "serving.json").read_text())
    details = content["details"]
    assert content["work"]["batch_sizes"] == [1, 4] and details["found"] == "2.0 objects a picture"
    for size in (1, 4):
        request = details[f"batch {size}"]
        assert 0 < request["p50_ms"] <= request["p90_ms"] <= request["p99_ms"] <= request["maximum_ms"]
        assert request["first_ms"] > 0 and request["pictures_per_second"] > 0
    assert content["memory_bytes"]["loaded"] <= content["memory_bytes"]["peak"]
    # Three masks of 28 x 28 float32, and the headers.
    assert 0 < details["masks_28"]["grpc_bytes"] - 3 * 28 * 28 * 4 < 60
    assert details["masks_28"]["rest_bytes"] > details["masks_28"]["grpc_bytes"] > details["answer"]["grpc_bytes"]


def test_records_are_pictures_too(call, toy_export, tiny_data):
    flags = ["--export", toy_export, "--records", tiny_data.records, "--repeats", 1]
    done = call(benchmark, "--mode", "serving", *flags)
    assert done.status == 0 and str(tiny_data.records) in done.out


def test_figures_of_requests():
    found = Requests(4, first=2.0, cpu=[0.4, 0.8, 0.6], wall=[0.1, 0.3, 0.2])
    assert found["p50_ms"] == pytest.approx(200) and found["maximum_ms"] == pytest.approx(300)
    assert found["pictures_per_second"] == pytest.approx(12 / 0.6) and found["cpu_ms_a_picture"] == pytest.approx(150)
    assert found["first_ms"] == 2000 and found.wall["median"] == pytest.approx(0.05)


def test_the_parts_weigh_what_the_answer_weighs(toy_export, pictures):
    answer = LocalClient(toy_export).predict([(pictures / "a.png").read_bytes()])
    parts = weigh([answer])
    assert set(parts) == {"answer", "masks_28"}
    # Messages add up; of JSON the frame around the outputs counts twice.
    assert parts["answer"]["grpc_bytes"] + parts["masks_28"]["grpc_bytes"] == len(grpc_bytes(answer))
    assert 0 < parts["answer"]["rest_bytes"] + parts["masks_28"]["rest_bytes"] - len(rest_bytes(answer)) < 80


def test_mistakes_are_one_line(call, toy_export, tmp_path):
    for flags, told in (
        ([], "wants --export"),
        (["--export", tmp_path], str(tmp_path)),
        (["--export", toy_export, "--batch_sizes", "0"], "--batch_sizes: 0"),
    ):
        done = call(benchmark, "--mode", "serving", *flags)
        assert done.status == 2
        assert told in next(line for line in done.err.splitlines() if line.startswith("error: "))
