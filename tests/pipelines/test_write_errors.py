"""Errors of writing: a full or read-only disk, a quota, a worker elsewhere. The same command then continues."""

import contextlib
import errno
import os
import resource
import shutil
from pathlib import Path

import pytest

from pipelines import files, shards
from tests.pipelines.preparation import contents, prepare, read_only, refuse


def test_a_finished_folder_may_be_read_only(folder, monkeypatch, capsys):
    capsys.readouterr()
    with read_only(monkeypatch):
        prepare(folder)
    assert f"{folder / 'records'}: 6 records in 6 shards" in capsys.readouterr().out


def test_an_unfinished_folder_that_is_read_only(folder, monkeypatch, capsys):
    (folder / "records" / "00002-of-00006.json").unlink()
    with read_only(monkeypatch):
        line = refuse(capsys, folder)
    assert str(folder / "records") in line and "Read-only file system" in line
    prepare(folder)


def test_an_output_that_is_a_file(folder, capsys):
    assert "is a file" in refuse(capsys, folder, output="instances.json")
    assert "Not a directory" in refuse(capsys, folder, output="instances.json/records")


@contextlib.contextmanager
def largest_file(size):
    """Makes every write beyond the size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_shard_that_cannot_be_written(folder, capsys):
    """The worker's error is one line, no unfinished file remains, and the rerun gives the same bytes."""
    before = contents(folder)
    sizes = sorted(path.stat().st_size for path in (folder / "records").glob("*.tfrecord"))
    shutil.rmtree(folder / "records")
    with largest_file(sizes[2] + 1):
        line = refuse(capsys, folder)
    assert ".tfrecord: File too large; finished shards are kept" in line and files.TEMPORARY not in line
    left = {path.name for path in (folder / "records").iterdir()}
    assert not [name for name in left if files.TEMPORARY in name] and "dataset_info.json" not in left
    prepare(folder)
    assert contents(folder) == before


def test_a_quota_exceeded_at_the_end_of_a_write(folder, capsys, monkeypatch):
    before = contents(folder)
    shutil.rmtree(folder / "records")

    def refuse_shard(number):
        if ".tfrecord" in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc to name a file by its number")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_shard)
        assert ".tfrecord: Disk quota exceeded" in refuse(capsys, folder)
    assert not list((folder / "records").glob("*.tfrecord*"))
    prepare(folder)
    assert contents(folder) == before


def test_an_error_of_a_worker_elsewhere_is_one_line(folder, capsys, monkeypatch):
    """A worker elsewhere does not share the folder that stops the workers of this machine."""
    (folder / "records" / "00002-of-00006.json").unlink()

    def fail(job, shard):
        raise shards.UserError("the disk is full")

    monkeypatch.setattr(shards, "write_shard", fail)
    monkeypatch.setattr(shards, "stop", lambda folder, reason: Path(os.devnull, "none").touch())
    with pytest.raises(SystemExit) as end:
        prepare(folder)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: the disk is full"
