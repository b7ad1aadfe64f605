"""Evaluation during training: equal results on any number of devices and workers, and the best checkpoint."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.run import Run
from htc_tf.training.validation import BestCheckpoint, describe_evaluations, evaluations_since_best
from tests.slow import slow

SCRIPT = Path(__file__).with_name("evaluating.py")


@pytest.fixture(scope="module", params=["toy", *slow("detector")])
def written(request, run_workers, tiny_data, tmp_path_factory):
    """[metrics, results, losses] of each: "1", "2", "4": devices, run eagerly; "1 traced"; "workers": two, traced."""
    folder = tmp_path_factory.mktemp("evaluations")
    command = [SCRIPT, tiny_data.records, folder, request.param]
    run_workers(command, command)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.parametrize("alone, other", [("1", "2"), ("1", "4"), ("1 traced", "workers")])
def test_devices_and_workers_do_not_change_the_results(written, alone, other):
    metrics, results, losses = written[alone]
    assert written[other][1] == results  # every bit of every box, score and mask
    assert written[other][0] == metrics
    assert written[other][2] == losses and losses["total"] > 0
    assert metrics["images"] == 6 and {result["image_id"] for result in results} == set(range(1, 7))


class Model(tf.Module):
    def __init__(self, value=0.0):
        super().__init__()
        self.weight = tf.Variable([float(value)])


def kept(run):
    """Returns the step of the best checkpoint, its weight and the number of checkpoints."""
    model = Model()
    path = Checkpoints(run.best, model).restore_latest()
    return path.rpartition("-")[2], float(model.weight[0]), len(list(run.best.checkpoints.glob("*.index")))


def test_only_better_weights_replace_the_best(tmp_path):
    run = Run(tmp_path)
    update = BestCheckpoint(run, "segm/AP", "", []).update
    assert BestCheckpoint(run, "segm/AP", "", []).saved() is None
    assert update(8, {"segm/AP": 0.5}, Model(1)) and kept(run) == ("8", 1.0, 1)
    assert BestCheckpoint(run, "segm/AP", "", []).saved() == (8, 0.5)
    assert BestCheckpoint(run, "bbox/AP", "", []).saved() is BestCheckpoint(run, None, "", []).saved() is None
    again = BestCheckpoint(run, "segm/AP", "", []).update
    assert not again(12, {"segm/AP": 0.5}, Model(2)) and kept(run) == ("8", 1.0, 1)
    # A training resumed from an earlier checkpoint may reach other metrics, at other steps.
    assert again(6, {"segm/AP": 0.6}, Model(3)) and kept(run) == ("6", 3.0, 1)


def test_another_metric_is_compared_with_that_of_the_best_weights(tmp_path):
    """`keep_best` may change between two trainings of a run."""
    run = Run(tmp_path)
    metrics = {"segm/AP": 0.5, "bbox/AP": 0.4, "val_loss/total": float("nan"), "images": 6}
    assert BestCheckpoint(run, "segm/AP", "", []).update(8, metrics, Model(1))
    other = BestCheckpoint(run, "bbox/AP", "", [])
    assert other.saved() == (8, 0.4)
    assert not other.update(9, {**metrics, "bbox/AP": 0.3}, Model(2)) and kept(run) == ("8", 1.0, 1)
    assert other.update(9, {**metrics, "bbox/AP": 0.45}, Model(3)) and kept(run) == ("9", 3.0, 1)


def test_a_full_disk_leaves_nothing_unfinished(tmp_path, monkeypatch):
    run = Run(tmp_path)
    best = BestCheckpoint(run, "segm/AP", "", [])
    best.update(8, {"segm/AP": 0.5}, Model(1))
    before = sorted(path.name for path in run.best.checkpoints.iterdir())

    def write(_, path):
        Path(f"{path}_temp").mkdir()
        Path(f"{path}.index").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tf.train.Checkpoint, "write", write)
    with pytest.raises(OSError, match="No space"):
        best.update(12, {"segm/AP": 0.6}, Model(2))
    assert sorted(path.name for path in run.best.checkpoints.iterdir()) == before and best.saved() == (8, 0.5)


def test_damaged_best_weights_are_replaced(tmp_path, capsys):
    run = Run(tmp_path)
    update = BestCheckpoint(run, "segm/AP", "", []).update
    update(8, {"segm/AP": 0.5}, Model(1))
    (run.best.checkpoints / "ckpt-8.index").write_bytes(b"")
    assert update(12, {"segm/AP": 0.4}, Model(2)) and kept(run) == ("12", 2.0, 1)
    line = capsys.readouterr().err
    assert line.startswith("note: ") and "ckpt-8.index" in line and line.endswith("step 12 replaces it\n")


@pytest.mark.parametrize("metrics", [None, [], {"segm/AP": "0.9"}, {"segm/AP": None}])
def test_a_best_metric_that_is_no_number_is_replaced(tmp_path, metrics):
    run = Run(tmp_path)
    best = BestCheckpoint(run, "segm/AP", "", [])
    best.update(8, {"segm/AP": 0.5}, Model(1))
    path = run.best.checkpoints / "ckpt-8.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": metrics}))
    assert best.saved() is None
    assert best.update(12, {"segm/AP": 0.4}, Model(2)) and best.saved() == (12, 0.4)


@pytest.mark.parametrize(
    ("values", "since"),
    [([], 0), ([0.3], 0), ([0.1, 0.2], 0), ([0.2, 0.2], 1), ([0.2, 0.1, 0.3, 0.3, 0.0], 2), ([-1.0, -1.0], 1)],
)
def test_evaluations_since_the_best(values, since):
    evaluations = {10 * i: {"segm/AP": value, "bbox/AP": i} for i, value in enumerate(values)}
    evaluations |= {5: {"bbox/AP": 9.0}}  # of boxes only
    assert evaluations_since_best(dict(reversed(evaluations.items())), "segm/AP") == since


def test_the_evaluations_are_described():
    experiment = SimpleNamespace(evaluate_every=75, steps=900, patience=None)
    info = SimpleNamespace(records=200, folder="records/val")
    told = "every 75 steps (1 epoch), 12 in all, each on 200 images of records/val"
    assert describe_evaluations(experiment, info, 75) == told
    experiment.patience, info.records = 5, 5000
    told = told.replace("200", "5000") + ", losses on the first 500; ends early after 5 without improvement"
    assert describe_evaluations(experiment, info, 75) == told
    assert describe_evaluations(experiment, None, 75) == "none"
