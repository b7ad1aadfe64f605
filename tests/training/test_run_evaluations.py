"""The evaluations of a training: the last one, the end without improvement, and what a kill around one leaves."""

import json
import shutil

import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.evaluation.records import Interrupted
from htc_tf.run import Run
from htc_tf.training.validation import Validation
from tests import toy_detector
from tests.training.runs import TINY, checkpoints, copy, lines

SMALL = ["CHECKPOINT_EVERY=2", "EVALUATE_EVERY=2"]


@pytest.fixture
def evaluate_as(monkeypatch, eagerly):
    """evaluate_as(0.1, 0.3) makes these box APs the results of the evaluations; each may raise Interrupted instead."""

    def evaluate_as(*results):
        results = list(results)

        def evaluate(self):
            value = results.pop(0)
            if isinstance(value, type):
                raise value
            return {"bbox/AP": value, "evaluation_seconds": 1.0}, {}

        monkeypatch.setattr(Validation, "evaluate", evaluate)
        return results

    return evaluate_as


def start_evaluated(run, records, *params):
    return toy_detector.train(TINY, [*SMALL, *params], records, records, run)


def test_the_last_step_is_evaluated(tiny_data, tmp_path, evaluate_as, capsys):
    run = Run(tmp_path)
    left = evaluate_as(0.1, Interrupted, 0.2)
    assert start_evaluated(run, tiny_data.records, "STEPS=3") is True  # ended within the last evaluation
    told = capsys.readouterr().out
    assert f"evaluations: every 2 steps (0.67 epochs), 2 in all, each on 6 images of {tiny_data.records}\n" in told
    assert start_evaluated(run, tiny_data.records, "STEPS=3") is False and not left
    assert [record["step"] for record in lines(run) if "bbox/AP" in record] == [2, 3]
    assert start_evaluated(run, tiny_data.records, "STEPS=3") is False  # nothing is left to do


PATIENT = ["STEPS=99", "Experiment.keep_best='bbox/AP'", "Experiment.patience=2"]


def test_evaluations_without_improvement_end_a_training(tiny_data, tmp_path, evaluate_as, capsys):
    run = Run(tmp_path)
    left = evaluate_as(0.1, 0.4, 0.4, 0.3, 0.5)
    assert start_evaluated(run, tiny_data.records, *PATIENT, "CHECKPOINT_EVERY=0") is False
    best = run.best.folder
    ending = [
        "stopped early at epoch 2.67 (step 8): bbox/AP has not improved for 2 evaluations; the best, 0.400 at step 4, "
        f"is in {best}",
        f"next: python -m htc_tf.eval --checkpoint {best} --records {tiny_data.records} "
        f"--output {run.folder / 'metrics.json'}",
        f"  or: python -m htc_tf.predict --checkpoint {best} --input 'photos/*.jpg' --output pictures",
    ]
    assert capsys.readouterr().out.splitlines()[-3:] == ending
    assert left == [0.5] and checkpoints(run) == ["ckpt-8"]  # saved there, although no checkpoint was due
    # The same command does nothing and says the same.
    before = run.metrics.read_text()
    assert start_evaluated(run, tiny_data.records, *PATIENT, "CHECKPOINT_EVERY=0") is False
    assert capsys.readouterr().out.splitlines()[-3:] == ending and run.metrics.read_text() == before
    # More patience continues.
    assert start_evaluated(run, tiny_data.records, *PATIENT, "STEPS=10", "Experiment.patience=3") is False
    told = capsys.readouterr().out
    assert f"finished 10 steps (3.33 epochs): {run.folder}; the best, 0.500 at step 10, is in {best}\n" in told
    assert not left


def test_a_killed_training_counts_its_evaluations_again(tiny_data, tmp_path, evaluate_as, capsys):
    """Killed after the evaluation of step 6, before its checkpoint; then after a checkpoint, before its evaluation."""
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    evaluate_as(0.4, 0.3, 0.2)
    start_evaluated(whole, tiny_data.records, *PATIENT)
    steps_only = [record["step"] for record in lines(whole)]
    killed = copy(whole, killed.folder, newest=4)
    evaluate_as(0.2)
    start_evaluated(killed, tiny_data.records, *PATIENT)
    assert [record["step"] for record in lines(killed)] == steps_only
    killed.metrics.write_text("".join(json.dumps(r) + "\n" for r in lines(killed)[:-1]))
    evaluate_as(0.2)
    capsys.readouterr()
    start_evaluated(killed, tiny_data.records, *PATIENT)
    assert [record["step"] for record in lines(killed)] == steps_only
    assert "stopped early at epoch 2 (step 6): bbox/AP has not improved for 2 evaluations" in capsys.readouterr().out


def test_other_validation_records_of_a_resumed_training_are_noted(tiny_data, tmp_path, evaluate_as, capsys):
    run = Run(tmp_path)
    evaluate_as(0.1, 0.2, 0.3)
    start_evaluated(run, tiny_data.records, "STEPS=2")
    manifest = run.checkpoints / "ckpt-2.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "val_data": "of other records"}))
    capsys.readouterr()
    start_evaluated(run, tiny_data.records, "STEPS=4", "LOG_EVERY=0")
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    since = f"changed since {run.checkpoints / 'ckpt-2'}: "
    assert notes == [
        f"note: config {since}the run will differ from the original",
        f"note: --val_records {since}metrics before and after, which RUN/best and patience compare, differ in images",
    ]
    # Later the same records are no news, and records where there were none compare nothing.
    manifest = run.checkpoints / "ckpt-4.json"
    for known in (json.loads(manifest.read_text())["val_data"], None):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "val_data": known}))
        start_evaluated(run, tiny_data.records, "STEPS=4", "LOG_EVERY=0")
        assert "changed since" not in capsys.readouterr().err


def test_an_evaluation_without_memory_ends_in_one_line(tiny_data, tmp_path, monkeypatch, eagerly):
    def evaluate(self):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(Validation, "evaluate", evaluate)
    with pytest.raises(UserError, match=r"^out of memory \(OOM when allocating\): .*lower eval/Input.batch_size = 2"):
        start_evaluated(Run(tmp_path), tiny_data.records, "STEPS=2")
    assert checkpoints(Run(tmp_path)) == ["ckpt-2"]


def test_the_best_weights_of_an_earlier_training_are_noted(tiny_data, tmp_path, evaluate_as, capsys):
    """The checkpoints were moved away to start from scratch."""
    run, params = Run(tmp_path), ["STEPS=2", "Experiment.keep_best='bbox/AP'"]
    evaluate_as(0.4, 0.3)
    start_evaluated(run, tiny_data.records, *params)
    shutil.rmtree(run.checkpoints)
    assert str(run.best.folder) not in capsys.readouterr().err
    start_evaluated(run, tiny_data.records, *params)
    note = f"note: {run.best.folder} holds weights of an earlier training (bbox/AP 0.400 at step 2): move it away, or "
    assert note + "only better ones replace them\n" in capsys.readouterr().err


def test_the_best_weights_are_no_training_to_continue(tiny_data, tmp_path, evaluate_as):
    """They have no step: checkpoints of lower numbers would come before them, and be lost."""
    run = Run(tmp_path)
    evaluate_as(0.4, 0.3)
    start_evaluated(run, tiny_data.records, "STEPS=2", "Experiment.keep_best='bbox/AP'")
    before = sorted(path.name for path in run.best.folder.rglob("*"))
    best = run.best.folder
    with pytest.raises(UserError, match=f"{best} holds weights alone, .*--init_from {best} and another --workdir"):
        toy_detector.train(TINY, ["STEPS=1"], tiny_data.records, None, run.best)
    assert sorted(path.name for path in run.best.folder.rglob("*")) == before
