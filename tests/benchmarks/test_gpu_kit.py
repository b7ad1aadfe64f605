"""The kit for a GPU: limits of its parts, the table, and a trial on a CPU where jax is installed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.gpu import __main__ as builder

ROOT = Path(__file__).resolve().parents[2]
# A Python with jax, torch and torchvision; the project's own environment has none of them.
OTHER_PYTHON = os.environ.get("HTC_TF_JAX_PYTHON")


@pytest.fixture
def module(monkeypatch):
    """module(name) imports a script of the kit as the kit does."""
    monkeypatch.syspath_prepend(str(builder.HERE))

    def load(name):
        for loaded in ("table", "kit"):
            monkeypatch.delitem(sys.modules, loaded, raising=False)
        return importlib.import_module(name)

    return load


def test_a_part_that_hangs_or_fails_costs_no_other(module, tmp_path, monkeypatch):
    kit = module("kit")
    monkeypatch.setattr(kit, "LEAST", 0.1)
    hang = 'import time; print(\'{"rate": "copies", "gb_per_second": 5}\', flush=True); print(\'{\', flush=True)'
    parts = (
        (30, "-c", 'print(\'{"device": "A", "platform": "cpu", "jax": "1"}\')'),
        (0.7, "-c", f"{hang}; time.sleep(60)"),
        (30, "-c", "raise SystemExit(3)"),
    )
    text = kit.run(tmp_path / "out", 60, parts)
    assert text.startswith("Device: A (cpu), jax 1.\n- copies: 5 GB/s\n") and text.count("killed after 1 s") == 1
    assert "SystemExit(3): 3\n" in text and text == (tmp_path / "out" / "table.md").read_text()
    # Results are kept as they come, each on its own line.
    assert [line for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines() if "failed" in line]
    assert "- -c pass: not started\n" in kit.run(tmp_path / "late", 0.05, ((30, "-c", "pass"),))


def test_the_kit_names_programs_that_exist(module):
    names = {words[1] for _, *words in module("kit").PARTS if words[0] == "program.py"}
    peers = {"_b".join(words[1:3]) + f"_{words[3]}" for _, *words in module("kit").PARTS if len(words) == 4}
    assert names == set(builder.PROGRAMS) and peers < names
    assert all((builder.HERE / name).is_file() for name in builder.SCRIPTS)


def test_the_table(module):
    results = [
        {"device": "GPU", "platform": "gpu", "jax": "0.11"},
        {"rate": "products tf32", "tflop_per_second": 400.0},
        {"program": "train_b4_float32", "compile_s": 80.5, "median_ms": 200.0, "p90_ms": 210.0, "images": 4}
        | {"tflop_per_second": 40.0, "peak_gb": 20.5, "instructions": 9, "outputs_finite": False},
        {"peer": "train_b4_float32", "median_ms": 250.0, "p90_ms": 251.0, "images": 4, "peak_gb": 15.0}
        | {"versions": "torch 2"},
        {"part": "peer.py train", "failed": 1},
    ]
    text = module("table").make("\n".join(map(json.dumps, results)) + '\n{"progr')
    assert "| train_b4_float32 | 80.5 | 200.0 | 210.0 | 20.0 | 40.0 | 10.0% | 20.5 | 250.0 | 16.0 | 15.0 |" in text
    assert text.endswith("- train_b4_float32: an output is not finite\n- peer.py train: 1\n")
    assert "- products tf32: 400.0 TFLOP/s\n" in text and "Beside it: torch 2.\n" in text
    assert module("table").make("") == ""


@pytest.mark.skipif(not OTHER_PYTHON, reason="HTC_TF_JAX_PYTHON names no Python with jax, torch and torchvision")
def test_a_trial_on_a_cpu(tmp_path):
    """All parts run, at a small size: our programs give finite outputs, and torchvision answers."""
    small = ["--height", "128", "--width", "192"]
    names = ["inference_b1_float32", "roi_align", "roi_align_gradient"]
    words = [sys.executable, "-m", "tests.benchmarks.gpu", "--output", tmp_path, "--only", *names, "--", *small]
    subprocess.run(words, cwd=ROOT, check=True)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for words in (["program.py", name] for name in names):
        words = [OTHER_PYTHON, *words, "--runs", "2", "--cpu"]
        found = json.loads(subprocess.run(words, cwd=tmp_path, check=True, stdout=-1, env=environment).stdout)
        assert found["program"] == words[2] and found["outputs_finite"] and found["median_ms"] > 0
    for peer in (["roi_align"], ["inference", "1", "float32"]):
        words = [OTHER_PYTHON, "peer.py", *peer, "--runs", "2", "--cpu"]
        lines = subprocess.run(words, cwd=tmp_path, check=True, stdout=-1, env=environment).stdout.splitlines()
        assert {json.loads(line)["peer"] for line in lines} <= set(names)
