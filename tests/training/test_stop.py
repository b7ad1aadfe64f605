"""SIGTERM and Ctrl-C: when the process ends, and with which exit status."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from htc_tf.training.stop import INTERRUPTED, STOPPED, StopRequest

ROOT = Path(__file__).resolve().parents[2]
# The main thread is in C code for an hour, as in TensorFlow's compiler: no Python handler runs.
BUSY = """
import hashlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell makes its children ignore it
from htc_tf.training.stop import StopRequest
with StopRequest(own_process=True) as stop:
    stop.nothing_to_save = sys.argv[1] == "nothing"
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.fixture(autouse=True)
def sigint_enabled():
    """Without it tests that run in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def busy():
    """busy("nothing" or "something") starts a busy process, with nothing or something to save."""
    started = []

    def start(what):
        command = [sys.executable, "-c", BUSY, what]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_save_the_process_ends_at_once(busy, number):
    process = busy("nothing")
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == STOPPED == 75
    assert errors.strip() == f"{signal.Signals(number).name}: no step is done, there is nothing to save"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_something_to_save_only_a_second_ctrl_c_ends_at_once(busy, number):
    process = busy("something")
    process.send_signal(number)
    assert process.stderr.readline() == "\n" and "finishing the step, then saving" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == INTERRUPTED == 130 and "SIGINT again" in errors


def test_ending_the_process_loses_no_output():
    script = "from htc_tf.training.stop import end_process; print('saved'); end_process(75)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (75, "saved\n")


def test_within_another_program(capfd):
    """A notebook or a test is never ended; a second Ctrl-C raises KeyboardInterrupt."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop and capfd.readouterr().err.count("finishing the step") == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_handlers_are_removed():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    with StopRequest(own_process=True):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    assert (signal.getsignal(signal.SIGTERM), descriptor) == before


def test_an_ignored_signal_stays_ignored():
    """A background process of a shell script ignores Ctrl-C, which is meant for another program."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_no_signal_is_caught():
    made = []

    def enter():
        with StopRequest(own_process=True) as stop:
            made.append(bool(stop))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert made == [False]
