"""The preparation's command on a folder of its own, as tests of reruns and of errors call it."""

import contextlib
import errno
import os

import pytest

from htc_tf import lock
from pipelines import coco_to_tfrecord, files


def words(folder, **flags):
    given = {"annotations": "instances.json", "images": "images", "stuff": "stuff", "output": "records"} | flags
    return [f"--{name}={folder / value}" for name, value in given.items()] + ["--shards=6"]


def prepare(folder, **flags):
    coco_to_tfrecord.main(words(folder, **flags))


def refuse(capsys, folder, **flags):
    """Returns the line on standard error, apart from progress bars, of a command that must end with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        prepare(folder, **flags)
    assert end.value.code == 2
    rates = ("it/s]", "image/s]", "s/it]", "s/image]")  # of progress bars; the last two on a slow machine
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and not line.endswith(rates)]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "records").iterdir() if path.is_file()}


@contextlib.contextmanager
def read_only(monkeypatch):
    """Simulates a read-only file system: root, which may run the tests, ignores permissions."""

    def refuse(path, *args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_write", refuse)
        patch.setattr(files, "remove", refuse)
        patch.setattr(lock, "hold", refuse)
        patch.setattr(os, "makedirs", refuse)
        yield
