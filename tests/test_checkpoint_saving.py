"""Saving checkpoints: kills at every point, manifests, the same step twice, and data on the disk."""

import json
import os
import re

import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.run import Run
from tests.small_checkpoints import DATA, INDEX, Model, damage, names, restored, save


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"[]", b'{"files": 3}', b"[" * 9999, b'{"files": {"a": {}}}'])
def test_a_damaged_manifest_does_not_lose_its_checkpoint(tmp_path, content):
    run = Run(tmp_path)
    save(run, 2, 4)
    (run.checkpoints / "ckpt-4.json").write_bytes(content)
    (run.checkpoints / "checkpoint").write_bytes(b"\0" * 99)
    Checkpoints(run, Model()).sweep()
    assert restored(run) == 4


def test_a_manifest_with_a_wrong_hash_does_not_lose_its_checkpoint(tmp_path, capsys):
    run = Run(tmp_path)
    save(run, 2, 4)
    path = run.checkpoints / "ckpt-4.json"
    path.write_text(re.sub('"sha256": "....', '"sha256": "0000', path.read_text()))
    assert restored(run) == 4
    assert re.search(r"ckpt-4\.\S+ is damaged: .*, or ckpt-4\.json is", capsys.readouterr().err)


@pytest.mark.parametrize("suffix", [DATA, INDEX])
def test_a_manifest_that_lacks_a_file_proves_nothing(tmp_path, suffix):
    run = Run(tmp_path)
    save(run, 2, 4)
    path = run.checkpoints / "ckpt-4.json"
    content = json.loads(path.read_text())
    del content["files"][f"ckpt-4.{suffix}"]
    path.write_text(json.dumps(content))
    assert restored(run) == 4
    damage(run.checkpoints / f"ckpt-4.{suffix}", "cut")
    assert restored(run) == 2


def test_the_manifest_of_another_checkpoint_proves_nothing(tmp_path):
    run = Run(tmp_path)
    save(run, 2, 4)
    path = run.checkpoints / "ckpt-4.json"
    path.write_bytes((run.checkpoints / "ckpt-2.json").read_bytes())
    assert restored(run) == 4
    damage(run.checkpoints / f"ckpt-4.{DATA}", "cut")
    assert restored(run) == 2


def save_training(run, *steps):
    for number in steps:
        Checkpoints(run, Model(number), step=tf.Variable(number, dtype=tf.int64)).save(number)


def copy_checkpoint(run, source, target, suffixes):
    for suffix in suffixes:
        content = (run.checkpoints / f"ckpt-{source}.{suffix}").read_bytes()
        (run.checkpoints / f"ckpt-{target}.{suffix}").write_bytes(content)


@pytest.mark.parametrize("suffixes", [(DATA, INDEX), (DATA, INDEX, "json")])
@pytest.mark.parametrize("target", [6, 9])
def test_files_of_another_step_are_no_checkpoint(tmp_path, suffixes, target, capsys):
    """Otherwise a training would count from the step in the files and not save later checkpoints again."""
    run = Run(tmp_path)
    save_training(run, 2, 4, 6)
    copy_checkpoint(run, 2, target, suffixes)
    step = tf.Variable(0, dtype=tf.int64)
    path = Checkpoints(run, Model(), step=step).restore_latest()
    assert path.endswith(f"ckpt-{step.numpy()}") and int(step) == (4 if target == 6 else 6)
    reason = "its bytes differ from those saved" if target == 6 and "json" not in suffixes else "it holds step 2"
    assert re.search(rf"ckpt-{target}\S* is damaged: {reason}", capsys.readouterr().err)


def test_a_step_saved_by_another_process_is_replaced(tmp_path):
    """A training that restarts with other numbers reaches the same step, such as the best one, with other weights."""
    run = Run(tmp_path)
    save(run, 2, 4)
    Checkpoints(run, Model(5)).save(4, seed=1)
    model, checkpoints = Model(), Checkpoints(run, Model())
    assert checkpoints.read_manifest()["seed"] == 1
    Checkpoints(run, model).restore_latest()
    assert int(model.weight[0]) == 5


def test_the_same_step_is_not_written_twice(tmp_path):
    """Neither in one process nor after a restart: overwriting an acknowledged checkpoint is not atomic."""
    run = Run(tmp_path)
    step = tf.Variable(4, dtype=tf.int64)
    checkpoints = Checkpoints(run, Model(4), step=step)
    checkpoints.save(4)
    written = (run.checkpoints / "ckpt-4.json").stat().st_ino
    checkpoints.save(4)
    again = Checkpoints(run, Model(), step=step)
    again.restore_latest()
    again.save(4)
    assert (run.checkpoints / "ckpt-4.json").stat().st_ino == written


class Killed(Exception):
    pass


@pytest.mark.parametrize("call", ["begin", "sync", "acknowledge", "rotate"])
def test_a_kill_inside_a_save_loses_nothing(tmp_path, monkeypatch, call):
    """The kill comes after `call`; "sync" is inside of `acknowledge`, before the hashes are written."""
    run = Run(tmp_path)
    save(run, 2, 4, keep=2)
    acknowledged = 4 if call in ("begin", "sync") else 6

    def die(*_):
        raise Killed

    if call == "sync":
        monkeypatch.setattr("htc_tf.checkpoint_files.hash_file", die)
    else:
        method = getattr(CheckpointFiles, call)

        def call_and_die(self, *arguments):
            method(self, *arguments)
            raise Killed

        monkeypatch.setattr(CheckpointFiles, call, call_and_die)
    with pytest.raises(Killed):
        save(run, 6, keep=2)
    monkeypatch.undo()
    assert restored(run) == acknowledged
    Checkpoints(run, Model()).sweep()
    assert restored(run) == acknowledged
    numbers = {int(re.match(r"ckpt-(\d+)", name)[1]) for name in names(run) if name != "checkpoint"}
    assert numbers == {"rotate": {4, 6}, "acknowledge": {2, 4, 6}}.get(call, {2, 4})
    save(run, 8, keep=2)
    assert restored(run) == 8


def test_an_acknowledged_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", record)
    run = Run(tmp_path / "run")
    run.create("", [])
    save(run, 1)
    folder = run.checkpoints
    wanted = [folder / f"ckpt-1.{DATA}", folder / f"ckpt-1.{INDEX}", folder, folder / "ckpt-1.json.aside", folder]
    wanted += [folder / "checkpoint.aside", folder]
    assert synced[-len(wanted) :] == list(map(str, wanted))
    assert {str(tmp_path / "run"), str(tmp_path / "run" / "config.gin.aside")} <= set(synced)


def test_a_manifest_names_no_file_elsewhere(tmp_path):
    run = Run(tmp_path / "run")
    save(run, 2)
    path = run.checkpoints / "ckpt-2.json"
    content = json.loads(path.read_text())
    content["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(content))
    assert restored(run) == 2  # the file outside is ignored, and TensorFlow's checksums decide
