"""Guards of a training: a full disk, a lack of memory, a step that is not finite, a second process in the run."""

import os
import resource
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.cluster import Cluster
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training.guard import (
    LOST_WORKER,
    FiniteGuard,
    WorkerLost,
    check_folder,
    disk_errors,
    memory_errors,
    run_lock,
    worker_errors,
)


class Inner(NamedTuple):
    boxes: np.ndarray


class Outer(NamedTuple):
    images: np.ndarray
    truth: Inner


BATCH = Outer(np.ones([1, 2]), Inner(np.zeros([3])))
BAD = {"learning_rate": 0.5, "rpn_box": np.float32(1.0), "semantic": np.float32("nan")}


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """The system refuses to let a file grow beyond a limit, in the middle of a checkpoint."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(300)])
    model.build([None, 300])
    checkpoints = Checkpoints(Run(tmp_path), model)
    checkpoints.save(1)
    before = sorted(path.name for path in checkpoints.folder.iterdir())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(UserError, match=r"checkpoints cannot be written .*0 MB a checkpoint.*ckpt-1") as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with disk_errors(checkpoints.folder, checkpoints):
                checkpoints.save(2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "\n" not in str(error.value) and "{{" not in str(error.value)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == before
    again = tf.keras.Sequential([tf.keras.layers.Dense(300)])
    again.build([None, 300])
    assert Checkpoints(Run(tmp_path), again).restore_latest().endswith("ckpt-1")
    np.testing.assert_array_equal(again.variables[0], model.variables[0])


@pytest.mark.parametrize("kind", LOST_WORKER)
def test_a_lost_worker_is_one_line(kind, tmp_path):
    text = (
        "Collective ops is aborted by: Deadline Exceeded\nAdditional GRPC error information from remote target /job:a"
    )
    error = kind(None, None, f"Graph execution error:\n\n{text} [[{{{{node CollectiveReduceV2}}}}]]")
    checkpoints = Checkpoints(Run(tmp_path), tf.Module())
    with pytest.raises(WorkerLost) as lost, worker_errors(Cluster(1, 3, False)), disk_errors(tmp_path, checkpoints):
        raise error
    assert str(lost.value).startswith(
        "another of the 3 workers has ended or does not answer (Deadline Exceeded): start"
    )
    assert "\n" not in str(lost.value)
    with pytest.raises(kind), worker_errors(Cluster()):
        raise error


def test_a_log_that_cannot_be_written_names_its_path(tmp_path):
    checkpoints = Checkpoints(Run(tmp_path), tf.Module())
    path = tmp_path / "metrics.jsonl"
    expected = r"metrics\.jsonl cannot be written \(No space left.*none yet"
    with pytest.raises(UserError, match=expected), disk_errors(path, checkpoints):
        raise OSError(28, "No space left on device")
    # Room is advised only where it is missing.
    expected = r"metrics\.jsonl cannot be written \(Is a directory\): start again; the last good checkpoint: none yet$"
    with pytest.raises(UserError, match=expected), disk_errors(path, checkpoints):
        raise OSError(21, "Is a directory")


def test_what_cannot_be_swept_hides_no_error(tmp_path, monkeypatch):
    """A disk that has become read-only."""

    def refuse():
        raise OSError(30, "Read-only file system")

    checkpoints = Checkpoints(Run(tmp_path), tf.Module())
    monkeypatch.setattr(checkpoints, "sweep", refuse)
    with pytest.raises(UserError, match="cannot be written"), disk_errors(tmp_path, checkpoints):
        refuse()


def test_memory():
    expected = r"out of memory \(OOM when.*BATCH_SIZE = 16.*ACCUMULATE"
    with pytest.raises(UserError, match=expected), memory_errors("lower BATCH_SIZE = 16, or raise ACCUMULATE"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")


def test_steps_that_are_not_finite(tmp_path, capsys):
    run = Run(tmp_path)
    guard = FiniteGuard(run, allowed=2, skipped=1)
    guard.check(1, True, {}, None)
    assert guard.skipped == 1
    guard.check(7, False, BAD, lambda: BATCH)
    assert "step 7 (learning rate 5.00e-01): not finite: semantic" in capsys.readouterr().err
    with np.load(run.failed_batch) as saved:
        assert saved["step"] == 7 and saved["images"].shape == (1, 2) and saved["truth.boxes"].shape == (3,)
    with pytest.raises(FloatingPointError, match=r"step 8 .*semantic") as error:
        guard.check(8, False, BAD, lambda: BATCH)
    assert "rpn_box" not in str(error.value)


def test_a_batch_that_cannot_be_saved_hides_nothing(tmp_path):
    def refuse():
        raise UserError("records/train: no such folder of records")

    guard = FiniteGuard(Run(tmp_path / "nowhere"), allowed=0)
    for make_batch in (lambda: BATCH, refuse):
        with pytest.raises(FloatingPointError, match=r"step 1 .*semantic.*could not be saved"):
            guard.check(1, False, BAD, make_batch)


def test_the_first_of_several_workers_saves_the_batch(tmp_path):
    guard = FiniteGuard(None, allowed=0)
    with pytest.raises(FloatingPointError, match=r"step 1 .*not applied, the first worker saves the batch; the last"):
        guard.check(1, False, BAD, None)


def test_a_second_training_in_a_run_is_refused(tmp_path):
    path = tmp_path / "run" / "lock"
    with run_lock(path):
        expected = rf"run is being trained by process {os.getpid()} on .+ since 20.*--workdir"
        with pytest.raises(UserError, match=expected), run_lock(path):
            pass
    with run_lock(path):
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "link", "unreadable", "unwritable"])
def test_a_folder_of_checkpoints_that_cannot_be_used_is_refused(tmp_path, monkeypatch, kind):
    """Else the training would start anew, and fail at its first checkpoint."""
    folder = tmp_path / "run" / "checkpoints"
    check_folder(folder)
    folder.parent.mkdir()
    if kind == "file":
        folder.write_text("")
    elif kind == "link":
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        check_folder(folder)
        refused = os.R_OK if kind == "unreadable" else os.W_OK
        monkeypatch.setattr(os, "access", lambda path, mode: path != folder or not mode & refused)
    with pytest.raises(UserError, match=f"{folder} (is no folder|cannot be read and written)"):
        check_folder(folder)


def test_a_run_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"), run_lock(tmp_path / "file" / "lock"):
        pass
