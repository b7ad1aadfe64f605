"""Damaged files of checkpoints: flipped bits, partial copies, lists and files that are missing or unreadable."""

import json

import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.errors import UserError
from htc_tf.run import Run
from tests.small_checkpoints import DAMAGES, DATA, INDEX, Model, damage, names, restored, save


def strip_hashes(run):
    """Leaves manifests as earlier versions wrote them."""
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


@pytest.mark.parametrize("step", [[1, 1], [1], "one"])
def test_a_step_that_is_no_number_is_damaged(tmp_path, step):
    tf.train.Checkpoint(step=tf.Variable(step)).write(str(tmp_path / "ckpt-1"))
    assert CheckpointFiles(tmp_path).problem(1).startswith(f"{tmp_path / 'ckpt-1'} is damaged: it holds step ")


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


def test_a_file_that_may_not_be_read_is_not_called_damaged(run, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("htc_tf.checkpoint_files.hash_file", refuse)
    monkeypatch.setattr(CheckpointFiles, "_read", lambda self, number: refuse(self.prefix(number)))
    with pytest.raises(UserError, match=r"ckpt-6\S* cannot be read \(Permission denied\)"):
        restored(run)


@pytest.mark.parametrize("name", ["run[1]", "back\\slash"])
def test_a_path_that_tensorflow_takes_as_a_pattern_is_refused(tmp_path, name):
    """It would write checkpoints there, and then not find them."""
    with pytest.raises(UserError, match=r"TensorFlow cannot read checkpoints .*rename"):
        save(Run(tmp_path / name), 2)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["half[", "star*q?", "a b", "{a,b}"])
def test_other_characters_of_patterns_may_be_in_a_path(tmp_path, name):
    run = Run(tmp_path / name)
    save(run, 2)
    assert restored(run) == 2


def test_only_unfinished_files_are_removed(run):
    before = names(run)
    (run.checkpoints / "ckpt-8_temp").mkdir()
    (run.checkpoints / "ckpt-8_temp" / "part-0").write_text("half")
    (run.checkpoints / "checkpoint.aside").write_text("half")
    (run.checkpoints / "ckpt-8.json").write_text('{"step": 8, "files": null}')
    (run.checkpoints / f"ckpt-8.{DATA}").write_text("half")
    assert restored(run) == 6
    Checkpoints(run, Model()).sweep()
    assert names(run) == before
    # Files of unknown origin stay.
    (run.checkpoints / "ckpt-best.index").write_text("")
    (run.checkpoints / f"ckpt-8.{DATA}").write_text("half")
    (run.checkpoints / "later_temporarily").mkdir()
    Checkpoints(run, Model()).sweep()
    assert set(names(run)) - set(before) == {"ckpt-best.index", f"ckpt-8.{DATA}", "later_temporarily"}
    assert restored(run) == 6
