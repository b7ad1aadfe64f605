"""Evaluation on several devices and by several workers: the same results and figures, to the last digit."""

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("evaluating.py")


@pytest.fixture(scope="module")
def written(run_workers, tiny_data, tmp_path_factory):
    """{"1", "2", "4": devices of one process, "workers": two processes of one}: [metrics, results] of each."""
    folder = tmp_path_factory.mktemp("evaluations")
    command = [SCRIPT, tiny_data.records, folder]
    run_workers(command, command)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("other", ["2", "4", "workers"])
def test_whoever_detects_the_figures_are_the_same(written, other):
    metrics, results = written["1"]
    assert written[other][1] == results  # every bit of every box, score and mask
    assert written[other][0] == metrics
    assert metrics["images"] == 6 and {result["image_id"] for result in results} == set(range(1, 7))
