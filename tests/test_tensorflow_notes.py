"""TensorFlow's notes at its import are hidden, and nothing else that is written to standard error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTES = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795880655.539678   28085 cudart_stub.cc:31] Could not find cuda drivers on your machine.
"""
NO_DRIVER = "E0000 00:00:1795880695.895948   28085 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)\n"
OTHERS = """\
W0000 00:00:1795880695.895948   28085 gpu_device.cc:2433] Cannot dlopen some GPU libraries.
E0000 00:00:1795880695.895948   28085 cuda_dnn.cc:8579] Unable to register cuDNN factory
WARNING: a library of the user
In the middle: I0000 00:00:1795880655.539678   28085 a.cc:1] b
The TensorFlow library was compiled to use AVX2 instructions, but these aren't available on your machine.
"""


@pytest.fixture
def import_tensorflow(tmp_path):
    """A function of the body of a package `tensorflow`; returns (exit status, standard error) of its import."""

    def run(body, before="", after="", **environment):
        package = tmp_path / "tensorflow" / "__init__.py"
        package.parent.mkdir()
        package.write_text(f"import os, sys\nclass config:\n    list_physical_devices = print\n{body}\n")
        script = f"{before}\nfrom htc_tf.tensorflow_notes import hide_notes\nhide_notes()\nimport tensorflow\n{after}"
        inherited = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        environment = {**inherited, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", **environment}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    return run


def write(text):
    """A statement that writes the text to file descriptor 2, as a library in C++ does."""
    return f"os.write(2, {text.encode()!r})"


def test_notes_are_dropped_and_other_lines_pass(import_tensorflow):
    assert import_tensorflow(write(NOTES + OTHERS + NOTES)) == (0, OTHERS)


def test_later_lines_are_not_read(import_tensorflow):
    assert import_tensorflow(write(NOTES), after=f"import os; {write(NOTES)}") == (0, NOTES)


XLA = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795919727.187103   21079 device_compiler.h:186] Compiled cluster using XLA!  This line is logged once.
2026-11-29 02:35:27.241696: E external/xla/stream_executor_internal.h:177] SetPriority unimplemented for this stream.
"""
TRAINING = """
import os, sys
from htc_tf.tensorflow_notes import without_xla_notes
with without_xla_notes():
    print("train:  0%", end="", file=sys.stderr, flush=True)
    {body}
    print("\\rtrain: 10%", file=sys.stderr)
{after}
"""


@pytest.mark.parametrize("level, lines", [("2", ""), ("0", XLA)])
def test_notes_on_a_training_are_not_glued_to_its_progress_bar(import_tensorflow, level, lines):
    after = TRAINING.format(body=write(XLA), after="")
    status, stderr = import_tensorflow("", after=after, TF_CPP_MIN_LOG_LEVEL=level)
    assert (status, stderr) == (0, f"train:  0%{lines}\ntrain: 10%\n")  # the pipe is read with universal newlines


def test_other_lines_of_a_training_pass(import_tensorflow):
    after = TRAINING.format(body=write(OTHERS + NO_DRIVER), after=write(XLA))
    status, stderr = import_tensorflow("", after=after)
    assert status == 0
    assert sorted(stderr.splitlines()) == sorted(f"train:  0%\ntrain: 10%\n{OTHERS}{NO_DRIVER}{XLA}".splitlines())


def test_level_0_keeps_the_notes(import_tensorflow):
    assert import_tensorflow(write(NOTES), TF_CPP_MIN_LOG_LEVEL="0") == (0, NOTES)


@pytest.mark.parametrize("driver", [True, False])
def test_an_error_of_the_driver_passes_where_there_is_a_driver(import_tensorflow, driver):
    before = f"import htc_tf.tensorflow_notes as notes; notes.has_driver = lambda: {driver}"
    assert import_tensorflow(write(NO_DRIVER), before) == (0, NO_DRIVER if driver else "")


def test_an_import_that_fails_has_its_traceback(import_tensorflow):
    status, errors = import_tensorflow(f"{write(NOTES)}; raise ImportError('broken')")
    assert status == 1 and errors.startswith("Traceback") and errors.endswith("ImportError: broken\n")


def test_the_last_words_of_a_crash_are_not_lost(import_tensorflow):
    status, errors = import_tensorflow(f"{write(NOTES + OTHERS)}; os.abort()")
    assert status < 0 and errors == OTHERS


def test_a_closed_standard_error_is_no_failure(import_tensorflow):
    again = "import os, subprocess, sys; os.close(2); sys.stderr = None"
    assert import_tensorflow("", before=again) == (0, "")


def test_a_command_without_grep_shows_the_notes(import_tensorflow):
    before = "import shutil; shutil.which = lambda name: None"
    assert import_tensorflow(write(NOTES), before) == (0, NOTES)


def test_a_command_that_imports_tensorflow_prints_its_error_alone(tmp_path):
    """The mistake is found when the model is built."""
    (tmp_path / "config.gin").write_text("include 'gin/htc_shapes.gin'\nSTEPZ = 1\n")
    command = [sys.executable, "-m", "htc_tf.benchmark", "--mode", "train", "--gin_file", str(tmp_path / "config.gin")]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and "STEPZ" in line
