"""One training at a time: the second is told of the first, and a kill -9 frees the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf.errors import UserError
from htc_tf.training.lock import hold

ROOT = Path(__file__).resolve().parents[2]
HOLDER = "import sys, time; from pathlib import Path; from htc_tf.training.lock import hold\n"
HOLDER += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_the_second_is_told_of_the_first_until_that_is_killed(tmp_path):
    path = tmp_path / "run" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"run is being trained by process {first.pid} on .+ since 20"), hold(path):
            pass
        first.kill()
        first.wait()
    with hold(path):
        assert f"process {os.getpid()} on" in path.read_text()


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written"), hold(tmp_path / "file" / "lock"):
        pass
