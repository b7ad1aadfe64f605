"""The benchmark of an exported model: requests of every batch size, and the bytes of each part of an answer."""

import json

import pytest

from htc_tf import benchmark
from htc_tf.inference.exported import LocalClient
from tests.benchmarks import measure
from tests.benchmarks.payload import grpc_bytes, rest_bytes, weigh


def test_the_command(call, toy_export, tmp_path):
    flags = ["--height", 64, "--width", 96, "--repeats", 3, "--json", tmp_path / "serving.json"]
    done = call(benchmark, "--mode", "serving", "--export", toy_export, "--batch_sizes", 1, 4, *flags)
    assert done.status == 0, done.err
    for title in ("serving: 64 x 96, batch 1", "ms per image", "loading", "batch 4"):
        assert title in done.out
    content = json.loads((tmp_path / "serving.json").read_text())
    details = content["details"]
    assert content["work"]["batch_sizes"] == [1, 4]
    for size in (1, 4):
        request = details[f"batch {size}"]
        assert 0 < request["p50_ms"] <= request["p90_ms"] <= request["p99_ms"]
        assert request["first_ms"] > 0 and request["images_per_second"] > 0
        assert request["cpu_ms_per_image"] > 0
    assert content["cpu_seconds"]["median"] == pytest.approx(details["batch 1"]["cpu_ms_per_image"] / 1e3)
    assert content["memory_bytes"]["loaded"] <= content["memory_bytes"]["peak"]


def test_the_bytes_of_an_answer(call, toy_export, tiny_data, tmp_path):
    flags = ["--export", toy_export, "--records", tiny_data.records, "--repeats", 1]
    done = call(measure, "--mode", "payload", *flags, "--json", tmp_path / "payload.json")
    assert done.status == 0, done.err
    details = json.loads((tmp_path / "payload.json").read_text())["details"]
    assert details["objects per image"] == 2
    # Three masks of 28 x 28 float32, and the headers.
    assert 0 < details["masks_28"]["grpc_bytes"] - 3 * 28 * 28 * 4 < 60
    assert details["masks_28"]["rest_bytes"] > details["masks_28"]["grpc_bytes"] > details["answer"]["grpc_bytes"]


def test_the_parts_weigh_what_the_answer_weighs(toy_export, images):
    answer = LocalClient(toy_export).predict([(images / "a.png").read_bytes()])
    parts = weigh([answer])
    assert set(parts) == {"answer", "masks_28"}
    # Messages add up; of JSON the frame around the outputs counts twice.
    assert parts["answer"]["grpc_bytes"] + parts["masks_28"]["grpc_bytes"] == len(grpc_bytes(answer))
    assert 0 < parts["answer"]["rest_bytes"] + parts["masks_28"]["rest_bytes"] - len(rest_bytes(answer)) < 80


def test_mistakes_are_one_line(call, toy_export, tmp_path):
    for flags, named in (
        ([], "requires --export"),
        (["--export", tmp_path], str(tmp_path)),
        (["--export", toy_export, "--batch_sizes", "0"], "--batch_sizes: 0"),
    ):
        done = call(benchmark, "--mode", "serving", *flags)
        assert done.status == 2
        assert named in next(line for line in done.err.splitlines() if line.startswith("error: "))
