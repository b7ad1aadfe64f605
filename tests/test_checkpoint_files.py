"""Checkpoints survive what happens to files: bits that flip, copies that are partial, a loss of power, kills."""

import json
import os
import re

import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.errors import UserError
from htc_tf.run import Run

DATA, INDEX = "data-00000-of-00001", "index"


class Model(tf.Module):
    def __init__(self, value=0.0, count=100):
        super().__init__()
        self.weight = tf.Variable(tf.fill([count], float(value)), name="weight")


def save(run, *steps, keep=3):
    """Each step's weights have its number as value."""
    for step in steps:
        Checkpoints(run, Model(step), keep=keep).save(step, seed=0)


def restored(run):
    """The number of the checkpoint that a reader gets."""
    model = Model()
    path = Checkpoints(run, model).restore_latest()
    number = int(model.weight[0])
    assert path == str(run.checkpoints / f"ckpt-{number}")
    return number


def names(run):
    return sorted(path.name for path in run.checkpoints.iterdir())


def strip_hashes(run):
    """What earlier versions wrote."""
    for path in run.checkpoints.glob("*.json"):
        content = json.loads(path.read_text())
        del content["files"]
        path.write_text(json.dumps(content))


@pytest.fixture(params=["with hashes", "of an earlier version", "without manifests"])
def run(request, tmp_path):
    """Three checkpoints: 2, 4 and 6."""
    run = Run(tmp_path)
    save(run, 2, 4, 6)
    if request.param == "of an earlier version":
        strip_hashes(run)
    elif request.param == "without manifests":
        for path in run.checkpoints.glob("*.json"):
            path.unlink()
    return run


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "flipped": flip,
    "zeros": lambda content: bytes(len(content)),
}


def damage(path, kind):
    content = DAMAGES[kind](path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("state", [None, b"", b"\0" * 200, b"garbage", b"\xff\xfe{", b'model_checkpoint_path: "'])
def test_checkpoints_are_found_whatever_became_of_tensorflows_list(run, state, capsys):
    path = run.checkpoints / "checkpoint"
    path.unlink() if state is None else path.write_bytes(state)
    before = set(names(run)) | {"checkpoint"}
    checkpoints = Checkpoints(run, Model())
    checkpoints.sweep()
    assert restored(run) == 6 and set(names(run)) | {"checkpoint"} == before
    checkpoints.files.repair_state()
    assert set(names(run)) == before
    assert capsys.readouterr().err == f"note: {path} did not name the newest intact checkpoint, ckpt-6: repaired\n"
    assert tf.train.latest_checkpoint(str(run.checkpoints)) == str(run.checkpoints / "ckpt-6")
    checkpoints.files.repair_state()
    assert not capsys.readouterr().err


def test_tensorflows_list_that_cannot_be_written_is_named(run):
    path = run.checkpoints / "checkpoint"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"{path} cannot be written \(.*directory\)"):
        CheckpointFiles(run.checkpoints).repair_state()
    assert restored(run) == 6


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("suffix", [DATA, INDEX])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(run, suffix, kind, capsys):
    damage(run.checkpoints / f"ckpt-6.{suffix}", kind)
    assert restored(run) == 4
    line = capsys.readouterr().err
    named = f"ckpt-6.{suffix}" if kind != "missing" or suffix == INDEX else "ckpt-6.data"
    assert line.startswith("note: ") and line.count("\n") == 1
    assert named in line and f"using {run.checkpoints / 'ckpt-4'}," in line


def test_two_damaged_checkpoints(run, capsys):
    damage(run.checkpoints / f"ckpt-6.{DATA}", "flipped")
    damage(run.checkpoints / f"ckpt-4.{INDEX}", "cut")
    assert restored(run) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"ckpt-6.{DATA}" in line and f"ckpt-4.{INDEX}" in line


def test_no_whole_checkpoint_is_an_error_that_names_the_files(run):
    for number in (2, 4, 6):
        damage(run.checkpoints / f"ckpt-{number}.{DATA}", "flipped")
    before = names(run)
    with pytest.raises(UserError, match=rf"ckpt-6\.{DATA} is damaged.*No intact checkpoint is in") as error:
        restored(run)
    assert "\n" not in str(error.value)
    Checkpoints(run, Model()).sweep()
    assert names(run) == before


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"[]", b'{"files": 3}', b"[" * 9999, b'{"files": {"a": {}}}'])
def test_a_damaged_manifest_costs_no_checkpoint(tmp_path, content):
    run = Run(tmp_path)
    save(run, 2, 4)
    (run.checkpoints / "ckpt-4.json").write_bytes(content)
    (run.checkpoints / "checkpoint").write_bytes(b"\0" * 99)
    Checkpoints(run, Model()).sweep()
    assert restored(run) == 4


def test_a_manifest_with_a_wrong_hash_costs_no_checkpoint(tmp_path, capsys):
    run = Run(tmp_path)
    save(run, 2, 4)
    path = run.checkpoints / "ckpt-4.json"
    path.write_text(re.sub('"sha256": "....', '"sha256": "0000', path.read_text()))
    assert restored(run) == 4
    assert re.search(r"ckpt-4\.\S+ is damaged: .*, or ckpt-4\.json is", capsys.readouterr().err)


@pytest.mark.parametrize("suffix", [DATA, INDEX])
def test_a_manifest_that_lists_a_part_of_the_files_vouches_for_none(tmp_path, suffix):
    run = Run(tmp_path)
    save(run, 2, 4)
    path = run.checkpoints / "ckpt-4.json"
    content = json.loads(path.read_text())
    del content["files"][f"ckpt-4.{suffix}"]
    path.write_text(json.dumps(content))
    assert restored(run) == 4
    damage(run.checkpoints / f"ckpt-4.{suffix}", "cut")
    assert restored(run) == 2


def test_a_manifest_vouches_for_no_other_checkpoint(tmp_path):
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
def test_files_of_another_step_are_not_taken_for_a_checkpoint(tmp_path, suffixes, target, capsys):
    """A training would count from the step in the files, and take later checkpoints for saved already."""
    run = Run(tmp_path)
    save_training(run, 2, 4, 6)
    copy_checkpoint(run, 2, target, suffixes)
    step = tf.Variable(0, dtype=tf.int64)
    path = Checkpoints(run, Model(), step=step).restore_latest()
    assert path.endswith(f"ckpt-{step.numpy()}") and int(step) == (4 if target == 6 else 6)
    reason = "its bytes differ from those saved" if target == 6 and "json" not in suffixes else "it holds step 2"
    assert re.search(rf"ckpt-{target}\S* is damaged: {reason}", capsys.readouterr().err)


def test_what_is_saved_again_replaces_what_is_there(tmp_path):
    """A training that restarts with other numbers comes to the same step, such as the best one, with other weights."""
    run = Run(tmp_path)
    save(run, 2, 4)
    Checkpoints(run, Model(5)).save(4, seed=1)
    model, checkpoints = Model(), Checkpoints(run, Model())
    assert checkpoints.read_manifest()["seed"] == 1
    Checkpoints(run, model).restore_latest()
    assert int(model.weight[0]) == 5


def test_the_same_step_is_not_written_twice(tmp_path):
    """Neither in one process nor after a restart: to write over an acknowledged checkpoint is not atomic."""
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


def test_training_continues_after_a_fallback(run):
    damage(run.checkpoints / f"ckpt-6.{DATA}", "cut")
    save(run, 5)
    assert restored(run) == 5
    save(run, 6)
    assert restored(run) == 6
    save(run, 7, keep=1)
    assert restored(run) == 7 and len(list(run.checkpoints.glob("*.index"))) == 1


@pytest.mark.parametrize("keep", [0, None])
def test_all_are_kept(run, keep):
    save(run, 7, 8, 9, keep=keep)
    assert len(list(run.checkpoints.glob("*.index"))) == 6


class Killed(Exception):
    pass


@pytest.mark.parametrize("call", ["begin", "sync", "acknowledge", "rotate"])
def test_a_kill_inside_a_save_loses_nothing(tmp_path, monkeypatch, call):
    """`call` is the last thing that happens; "sync" ends inside of `acknowledge`, before the hashes are written."""
    run = Run(tmp_path)
    save(run, 2, 4, keep=2)
    acknowledged = 4 if call in ("begin", "sync") else 6

    def die(*_):
        raise Killed

    if call == "sync":
        monkeypatch.setattr("htc_tf.checkpoint_files._sha256", die)
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


def test_only_what_is_unfinished_is_swept(run):
    before = names(run)
    (run.checkpoints / "ckpt-8_temp").mkdir()
    (run.checkpoints / "ckpt-8_temp" / "part-0").write_text("half")
    (run.checkpoints / "checkpoint.aside").write_text("half")
    (run.checkpoints / "ckpt-8.json").write_text('{"step": 8, "files": null}')
    (run.checkpoints / f"ckpt-8.{DATA}").write_text("half")
    assert restored(run) == 6
    Checkpoints(run, Model()).sweep()
    assert names(run) == before
    # Whoever put this here may want it.
    (run.checkpoints / "ckpt-best.index").write_text("")
    (run.checkpoints / f"ckpt-8.{DATA}").write_text("half")
    Checkpoints(run, Model()).sweep()
    assert set(names(run)) - set(before) == {"ckpt-best.index", f"ckpt-8.{DATA}"}
    assert restored(run) == 6


def test_what_is_acknowledged_is_on_the_disk(tmp_path, monkeypatch):
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


def test_a_file_that_may_not_be_read_is_not_called_damaged(run, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("htc_tf.checkpoint_files._sha256", refuse)
    monkeypatch.setattr(CheckpointFiles, "_read", lambda self, number: refuse(self.prefix(number)))
    with pytest.raises(UserError, match=r"ckpt-6\S* cannot be read \(Permission denied\)"):
        restored(run)


def test_a_manifest_names_no_file_elsewhere(tmp_path):
    run = Run(tmp_path / "run")
    save(run, 2)
    path = run.checkpoints / "ckpt-2.json"
    content = json.loads(path.read_text())
    content["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(content))
    assert restored(run) == 2  # "secret" is missed, and TensorFlow's checksums decide
