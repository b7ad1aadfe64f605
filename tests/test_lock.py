"""Lock files: they name their holder, are released in any case, and do nothing on file systems without locks."""

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


def test_a_killed_holder_releases_the_lock(tmp_path):
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


def test_an_error_releases_the_lock(tmp_path):
    path = tmp_path / "lock"
    with pytest.raises(KeyError), lock.hold(path, ""):
        raise KeyError
    with lock.hold(path, ""):
        pass


def test_a_lock_file_removed_by_its_last_holder(tmp_path, monkeypatch):
    """The holder ends between our `open` and our `flock`, so our file is not the one that others will open."""
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


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def refuse(file, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "flock", refuse)
        with lock.hold(tmp_path / "lock", ""):
            pass
    monkeypatch.setattr(lock, "fcntl", None)
    with lock.hold(tmp_path / "lock", ""), lock.hold(tmp_path / "lock", ""):
        pass
