"""A run's folder: a missing, wrong or damaged one is named in one line."""

import errno
import os
from pathlib import Path

import pytest

import htc_tf
from htc_tf.errors import UserError
from htc_tf.run import Run, sync, write_whole

INTACT = '{"categories": [{"id": 1, "name": "a"}]}'


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file_that_cannot_be_written_whole_leaves_nothing_beside_it(tmp_path, monkeypatch, before):
    path = tmp_path / "config.gin"
    if before is not None:
        path.write_text(before)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("htc_tf.run.sync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_file_in_place_of_a_folder(tmp_path):
    path = tmp_path / "model.h5"
    path.write_text("")
    for read in (Run(path).read_config, Run(path).read_categories, lambda: htc_tf.load(path)):
        with pytest.raises(UserError, match=r"model\.h5 is a file: name the folder of a training run") as refused:
            read()
        assert "--checkpoint" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    for folder, missing in ((tmp_path, r"classes\.json"), (tmp_path / "nowhere", "nowhere")):
        with pytest.raises(UserError, match=rf"{missing} is missing: name the folder of a training run") as refused:
            htc_tf.load(folder)
        assert "--checkpoint" not in str(refused.value)
    (tmp_path / "config.gin").mkdir()
    with pytest.raises(UserError, match=r"config\.gin cannot be read \(Is a directory\)"):
        Run(tmp_path).read_config()
    (tmp_path / "classes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.json is damaged"):
        Run(tmp_path).read_categories()


def test_special_files_are_refused_without_waiting_or_reading(tmp_path):
    """A pipe, a device and an endless file, which a run from an untrusted source may hold."""
    run = Run(tmp_path)
    for path, read in ((run.config, run.read_config), (run.classes, run.read_categories)):
        os.mkfifo(path)
        with pytest.raises(UserError, match=rf"{path.name} is not a regular file"):
            read()
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(UserError, match=rf"{path.name} is not a regular file"):
            read()
        path.unlink()
        with path.open("wb") as file:
            file.truncate(2**34)  # sparse
        with pytest.raises(UserError, match=rf"{path.name} has 17,179,869,184 bytes, more than"):
            read()
        path.unlink()
    run.config.write_bytes(b"\xef\xbb\xbfSTEPS = 1\r\n")  # as an editor on Windows leaves it
    assert run.read_config() == "STEPS = 1\r\n"


DAMAGED = ["", "[]", "null", "3", "{}", '{"categories": 3}', '{"categories": [1]}', '{"categories": null}']
DAMAGED += ['{"categories": ""}', '{"categories": {}}', '{"categories": [{"id": true, "name": "a"}]}']
DAMAGED += ['{"categories": [{"id": "1", "name": "a"}]}', '{"categories": [{"id": 1, "name": 2}]}', "[" * 100_000]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_classes_are_named(tmp_path, text):
    run = Run(tmp_path)
    run.classes.write_text(INTACT)
    assert run.read_categories() == [{"id": 1, "name": "a"}]
    run.classes.write_text(text)
    with pytest.raises(UserError, match=r"classes\.json is damaged"):
        run.read_categories()


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP"])
def test_a_file_system_that_cannot_sync_folders(tmp_path, monkeypatch, name):
    def refuse(_):
        raise OSError(getattr(errno, name), "")

    monkeypatch.setattr("htc_tf.run.flush", refuse)
    sync(tmp_path)


def test_a_failed_sync_is_an_error(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EIO, "")

    monkeypatch.setattr("htc_tf.run.flush", refuse)
    with pytest.raises(OSError):
        sync(tmp_path)


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "2026.json").write_text("old")
    (tmp_path / "latest.json").symlink_to("2026.json")
    write_whole(tmp_path / "latest.json", "new")
    assert (tmp_path / "latest.json").is_symlink() and (tmp_path / "2026.json").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_is_written_to():
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()
