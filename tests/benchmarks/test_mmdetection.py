"""The benchmark beside mmdetection: the load that both get, and the processes that take turns."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf.errors import UserError
from tests.benchmarks import __main__ as main
from tests.benchmarks import environments, mmdetection, page

FLAGS = SimpleNamespace(mode="mmdetection", repeats=2, gin_file=None, height=64, width=96)


def test_the_stages_have_their_positives(tmp_path):
    mmdetection.write_load(tmp_path / "load.npz", "train", 800, 1344)
    load = np.load(tmp_path / "load.npz")
    assert load["boxes"].shape == (2000, 4) and load["truth"].shape == (8, 4)
    assert all(load[name].min() >= 0 and (load[name].max(axis=0)[2:] <= [1344, 800]).all() for name in load)
    best = mmdetection.iou(load["boxes"], load["truth"]).max(axis=1)
    # The 8 objects are positive too.
    assert [8 + int((best >= threshold).sum()) for threshold in (0.5, 0.6, 0.7)] == [128, 76, 44]


def test_inference_proposes_the_boxes_of_the_benchmark(tmp_path):
    mmdetection.write_load(tmp_path / "load.npz", "inference", 64, 96)
    boxes = np.load(tmp_path / "load.npz")["boxes"]
    assert boxes.shape == (1000, 4) and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 64).all()


def test_both_take_turns(monkeypatch):
    """Each case is a command of ours and one of theirs, and the page has a row for it."""
    commands = []

    def compare(name, pair, rounds):
        commands.append((pair, rounds))
        clocks = {clock: {"median": 2.0} for clock in ("cpu_seconds", "wall_seconds")} | {"peak_bytes": 1e9}
        theirs = clocks | {"mmdetection": "3", "torch": "2", "threads": 2}
        return [2.0], [1.0], {"this": clocks, "other": theirs, "ratio": 2.5}

    monkeypatch.setattr(mmdetection, "compare", compare)
    monkeypatch.setenv(mmdetection.MMDETECTION_PYTHON, "theirs")
    found = mmdetection.run(FLAGS)
    for ((ours, theirs), rounds), mode in zip(commands, ("inference", "train"), strict=True):
        assert rounds == 2 and ours[0] == sys.executable and f"--mode={mode}" in ours and "--width=96" in ours
        assert theirs[:5] == ["theirs", str(mmdetection.STEPS), mode, "64", "96"] and len(theirs) == 6
    text = "\n".join(page.mmdetection({"mmdetection": found._asdict()}))
    assert text.startswith("mmdetection 3, PyTorch 2, 2 threads; ")
    assert "| training step of an image, 64 x 96 | 2 | 2 | 2 | 2 | 2.50 | 1.00 | 1.00 |" in text


def test_mmdetection_is_needed(monkeypatch):
    monkeypatch.delenv(mmdetection.MMDETECTION_PYTHON, raising=False)
    with pytest.raises(UserError, match="--mode mmdetection requires HTC_TF_MMDETECTION_PYTHON"):
        mmdetection.run(FLAGS)
    jobs = [{job.name for job in main.main_jobs(False, None, None, python)} for python in (None, "python")]
    assert jobs[1] - jobs[0] == {"mmdetection"}


def test_their_process_answers_as_ours(tmp_path):
    """The steps need PyTorch, so here only a mistake: its last line is passed on."""
    broken = environments.Environment([sys.executable, str(mmdetection.STEPS), "inference", "64", "96", "none"])
    with pytest.raises(UserError, match="ended with status 1; its last line: ModuleNotFoundError"):
        broken.start()
