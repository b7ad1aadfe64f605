"""Forks have TensorFlow already, and everything else of their own; they end like any program."""

import os
import signal
import subprocess
import sys

import pytest

from tests import forks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there a fork is a process like any other")


def test_arguments_environment_folder_and_output(tmp_path):
    program = "import os, sys; print(sys.argv, os.getcwd(), os.environ); print('an error', file=sys.stderr)"
    done = forks.run("-c", program, 3, tmp_path / "x", cwd=tmp_path, env={"A": "ä"})
    assert done.stdout == f"['-c', '3', '{tmp_path / 'x'}'] {tmp_path} environ({{'A': 'ä'}})\n"
    assert (done.returncode, done.stderr) == (0, "an error\n")


def test_tensorflow_is_there_and_has_run_nothing():
    program = """
import sys
assert "tensorflow" in sys.modules and "htc_tf.training.trainer" in sys.modules
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
with tf.device("CPU:1"):
    print(float(tf.constant(1.0) + 1))
"""
    done = forks.run("-c", program)
    assert done.stdout == "2.0\n", done.stderr


def test_modules_and_scripts_run_as_main(tmp_path):
    (tmp_path / "near.py").write_text("HERE = 'near'")
    (tmp_path / "script.py").write_text("import near, sys; print(__name__, near.HERE, *sys.argv[1:])")
    assert forks.run(tmp_path / "script.py", "a").stdout == "__main__ near a\n"
    assert forks.run("-m", "script", cwd=tmp_path).stdout == "__main__ near\n"


@pytest.mark.parametrize(
    ("program", "status", "errors"),
    [
        ("import sys; sys.exit('no')", 1, "no\n"),
        ("import atexit, os; atexit.register(os.write, 2, b'end'); raise SystemExit(7)", 7, "end"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_how_it_ends(program, status, errors):
    done = forks.run("-c", program)
    assert (done.returncode, done.stderr) == (status, errors)
    done = forks.run("-c", "1 / 0")
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_signals_and_limits(tmp_path):
    program = "import signal, time; signal.signal(15, lambda *_: exit(3)); print('ready', flush=True); time.sleep(100)"
    process = forks.start("-c", program, stdout=tmp_path / "out")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    while not (tmp_path / "out").exists() or (tmp_path / "out").read_text() != "ready\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == process.poll() == 3
    process.kill()  # of a process that has ended is nothing


def test_its_processor_time_counts_as_a_childs():
    forks.run("-c", "pass")
    before, server = os.times().children_user, forks.server_seconds()
    forks.run("-c", "while __import__('time').process_time() < 0.3: pass")
    assert os.times().children_user >= before + 0.2
    assert 1 < server <= forks.server_seconds() < server + 0.2  # which has imported TensorFlow, and only forks now
