"""Ends of a command: one line for what a user can repair, a traceback for our bugs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from htc_tf.errors import UserError, command, printable, user_error_in

ROOT = Path(__file__).resolve().parents[1]


def end(capsys, error):
    """Returns the exit status and the standard error of a command that raises the error."""

    @command
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


def test_a_users_mistake_is_one_line(capsys):
    assert end(capsys, UserError("a\nb")) == (2, "error: a b\n")


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EFBIG"])
def test_a_full_disk_is_one_line(capsys, name):
    why = os.strerror(getattr(errno, name))
    advice = "; free space on the disk, or name another output\n"
    assert end(capsys, OSError(getattr(errno, name), why, "a.json")) == (2, f"error: a.json: {why}{advice}")
    assert end(capsys, OSError(getattr(errno, name), why)) == (2, f"error: {why}{advice}")
    saving = tf.errors.ResourceExhaustedError(None, None, f"{{{{node SaveV2}}}} run/ckpt-1; {why} [Op:SaveV2]")
    assert end(capsys, saving)[0] == 2


@pytest.mark.parametrize("name", ["EACCES", "ENAMETOOLONG", "ELOOP", "ENOTDIR"])
def test_a_path_that_cannot_be_used_is_one_line(capsys, name):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "a\n.json")
    status, line = end(capsys, error)
    assert status == 2 and line.count("\n") == 1
    assert line.startswith("error: a\\n.json: ") and "give another path" in line


def test_control_characters_in_a_name_are_escaped(capsys):
    assert end(capsys, UserError("a\x1b[31m\udce9 ä 猫")) == (2, "error: a\\x1b[31m\\udce9 ä 猫\n")
    assert printable("a\r\nb\u202e\\") == "a\\r\\nb\\u202e\\"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{node map}} UserError: a.png is cut: write it again\n\tTraceback", "a.png is cut: write it again"),
        ("UserError: a, caused by UserError: b", "a, caused by UserError: b"),
        ("ValueError: a.png is cut", None),
    ],
)
def test_a_user_error_that_another_error_quotes(text, expected):
    assert user_error_in(text) == expected


def test_an_interrupt_ends_with_status_130(capsys):
    assert end(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_ends_early_ends_the_command_without_a_word(lines):
    script = f"from htc_tf.errors import command; command(lambda: [print('detection') for _ in range({lines})])()"
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does after its lines
    with open(writing, "wb") as output:
        flags = {"cwd": ROOT, "stdout": output, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run([sys.executable, "-c", script], **flags)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_command_runs_with_its_standard_streams_closed(tmp_path, closed):
    """As a shell's `>&-` closes them: Python has None in their place, and the next file would get their number."""
    script = (
        "import os, sys\n"
        "from htc_tf.errors import command\n"
        "@command\n"
        "def main():\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    print('out'), print('err', file=sys.stderr), sys.stdin.read()\n"
        "    sys.stdout.flush(), sys.stderr.isatty(), sys.__stderr__.fileno()\n"
        "    file.write(f'number {file.fileno() > 2}')\n"
        "main()"
    )
    shell = f'exec {sys.executable} -c "$0" {" ".join(f"{number}>&-" for number in closed)}'
    flags = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(["sh", "-c", shell, script], **flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "number True"
    assert (done.stdout, done.stderr) == ("" if 1 in closed else "out\n", "" if 2 in closed else "err\n")


def test_an_interrupt_during_imports_is_one_line():
    """Imports take seconds before `main` is called."""
    script = "from htc_tf.errors import start_command; start_command(); raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_package_that_refuses_its_import_is_one_line():
    """A command imports packages before `main` is called."""
    script = "from htc_tf.errors import UserError, start_command; start_command(); raise UserError('a\\nb')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: a b\n")


@pytest.mark.parametrize(
    "error", [ValueError("a"), OSError(errno.EIO, "broken"), tf.errors.InternalError(None, None, "b")]
)
def test_our_bugs_have_a_traceback(error):
    @command
    def main():
        raise error

    with pytest.raises(type(error)):
        main()


def test_a_command_starts_tensorflow_without_its_notes(monkeypatch):
    levels = []
    for preset, expected in ((None, "2"), ("0", "0")):
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if preset is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", preset)
        command(lambda: levels.append(os.environ["TF_CPP_MIN_LOG_LEVEL"]))()
        assert levels[-1] == expected
