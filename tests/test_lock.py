"""A lock file names its holder, is free again however the holder ends, and is no obstacle where there are no locks."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf import lock
from htc_tf.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
HOLDER = "import sys, time; from pathlib import Path; from htc_tf import lock\n"
HOLDER += "with lock.hold(Path(sys.argv[1]), ''): print('held', flush=True); time.sleep(60)"


def test_a_killed_holder_frees_the_lock(tmp_path):
    path = tmp_path / "folder" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        named = rf"^busy: process {first.pid} on .+ since 20"
        with pytest.raises(UserError, match=named), lock.hold(path, "busy: {holder}"):
            pass
        first.kill()
        first.wait()
    with lock.hold(path, "busy: {holder}"):
        assert f"process {os.getpid()} on" in path.read_text()
    assert not path.exists()


def test_the_lock_is_free_after_an_error(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(KeyError), lock.hold(path, ""):
        raise KeyError
    with lock.hold(path, ""):
        pass


def test_a_file_that_its_last_holder_removed_is_no_lock(tmp_path, monkeypatch):
    """The holder ends between our opening the file and our locking it: ours is another file than the next one's."""
    path, flock, opened = tmp_path / "lock", lock.fcntl.flock, []

    def remove_first(file, flags):
        if not opened:
            path.unlink()
        opened.append(file)
        flock(file, flags)

    monkeypatch.setattr(lock.fcntl, "flock", remove_first)
    with lock.hold(path, ""):
        assert len(opened) == 2 and path.exists()
        with pytest.raises(UserError), lock.hold(path, ""):
            pass


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def refuse(file, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", refuse)
        with lock.hold(tmp_path / "lock", ""):
            pass
    monkeypatch.setattr(lock, "fcntl", None)
    with lock.hold(tmp_path / "lock", ""), lock.hold(tmp_path / "lock", ""):
        pass
