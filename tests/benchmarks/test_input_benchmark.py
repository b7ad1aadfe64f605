"""The benchmark of the input measures something, on drawn records or given ones, and writes what it found."""

import json
import sys

import pytest

from htc_tf import benchmark
from htc_tf.benchmarks.drawn_records import OBJECTS, write_records
from htc_tf.benchmarks.measure import Work, format_table, measure
from htc_tf.data.datasets import load_info, read_shard
from htc_tf.data.schema import unpack


def call(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, flags)])
    benchmark.main()


def test_drawn_records_are_a_data_set(tmp_path):
    write_records(tmp_path, images=2)
    info = load_info(tmp_path)
    assert (info.records, info.objects, info.num_classes, info.stuff.present) == (2, 2 * OBJECTS, 80, True)
    records = [unpack(serialized) for serialized in read_shard(info.shard_paths[0], 2)]
    # As heavy as COCO's, which are 160 kB on average.
    assert all(100e3 < len(record.image.encoded) < 250e3 and len(record.objects) == OBJECTS for record in records)
    assert records[0].image.encoded != records[1].image.encoded


def test_measure_counts_units_and_leaves_the_warm_up_out():
    calls = []
    found = measure(lambda: calls.append(sum(range(20000))), "image", units=4, repeats=5, warmup=2, details={"a": "b"})
    assert len(calls) == 7
    for seconds in (found.cpu_seconds, found.wall_seconds):
        assert 0 <= seconds["minimum"] <= seconds["p10"] <= seconds["median"] <= seconds["p90"]
    assert 0 < found.memory_bytes["last"] <= 2 * found.memory_bytes["peak"]
    table = format_table("input", Work(8, 9, 2, "float32", None, 5), found)
    assert "8 x 9, batch 2" in table and "median" in table and "memory" in table and "a " in table


def test_the_command(tiny_data, tmp_path, monkeypatch, capsys):
    flags = ["--height", 64, "--width", 64, "--records", tiny_data.records, "--repeats", 2, "--batch", 4]
    call(monkeypatch, "--mode", "input", *flags, "--json", tmp_path / "new" / "input.json")
    content = json.loads((tmp_path / "new" / "input.json").read_text())
    assert content["mode"] == "input" and content["unit"] == "image" and content["work"]["batch"] == 4
    assert content["cpu_seconds"]["median"] > 0 and content["details"]["epochs"] == round(2 * 20 / 6, 1)
    assert "CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--mode", "nonsense"], "--mode nonsense is unknown; there are inference"),
        (["--mode", "input", "--batch", "0"], "--batch: 0"),
        (["--mode", "input", "--precision", "half"], "--precision half"),
        (["--mode", "input", "--records", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and named in line
