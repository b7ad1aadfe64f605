"""A user's mistake, told in one line, and the exit status that every command answers with.

Everything may raise UserError; only the commands catch it, through `command`. Exit status 0 is success,
2 a user's mistake or a disk that takes no more (one line on standard error, no traceback), 130 Ctrl-C, 1 anything else
(a traceback: our bug).
"""

import contextlib
import errno
import functools
import os
import re
import signal
import sys

OLDEST = (3, 10)
PYTHONS = ("Python 3.10", "3.11")  # that setup.cfg takes
INTERRUPTED = 128 + signal.SIGINT  # exit status
LONGEST_REASON = 300  # characters of TensorFlow's message that a line quotes
# What the system says of a disk that takes no more.
FULL = tuple(
    os.strerror(getattr(errno, name)) for name in ("ENOSPC", "EDQUOT", "EROFS", "EFBIG") if hasattr(errno, name)
)
# What the system says of a path that cannot be used.
UNUSABLE = tuple(os.strerror(getattr(errno, name)) for name in ("EACCES", "ENAMETOOLONG", "ELOOP", "ENOTDIR"))
# Lines around TensorFlow's reason: where the failed operation was defined.
TRACE = re.compile(r"(Graph execution error:|Detected at node .*|<stack traces.*|File \".*|\d+ root error\(s\).*)")


class UserError(Exception):
    """A mistake in a file, a key, a parameter or a flag. The message names it and says what to do."""

    # Keras adds a layer's arguments, many lines, to the message of an exception without this attribute.
    _keras_call_info_injected = True


class ModelFailed(UserError):
    """The model failed on one request; it may answer the next."""


class TooLate(UserError):
    """The model did not answer in time."""


def reason_of(message):
    """The reason in the message of a TensorFlow error, on one line, without stack traces and names of operations."""
    # The message ends with a reference to the operation, and hints.
    text = re.split(r"\[\[\{\{node|\[Op:", message)[0]
    lines = [re.sub(r"\{\{function_node.*?\}\}", "", line).strip() for line in text.splitlines()]
    reason = " ".join(line for line in lines if line and not TRACE.fullmatch(line))
    return reason[:LONGEST_REASON] or "no reason given"


def printable(text):
    """A text in one line, safe on a terminal: control characters and halves of characters are escaped."""
    escaped = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
    return "".join(escaped)


def start_command():
    """Called where `python -m` starts a command: a Python that cannot run it is one line, not a traceback."""
    if sys.version_info < OLDEST:
        _refuse_python("too old for htc_tf")
    sys.excepthook = _tell_missing


def _end_interrupted():
    """As a shell reports a program that Ctrl-C ended."""
    print("interrupted", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _tell_missing(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):  # while modules are imported, which takes seconds
        _end_interrupted()
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or package in ("", "htc_tf", "pipelines"):
        sys.__excepthook__(kind, error, trace)
        return
    _refuse_python(f"without the package {package}")


def _refuse_python(reason):
    here = ".".join(map(str, sys.version_info[:2]))
    advice = f"run `. .venv/bin/activate` first; `make env` makes or renews .venv, with {' or '.join(PYTHONS)}"
    print(f"error: this Python ({here}, {sys.executable}) is {reason}: {advice}", file=sys.stderr)
    sys.exit(2)


def _explain_path(error):
    """The file, where the error names it, and what the system says of it, in one line."""
    name, why = getattr(error, "filename", None), getattr(error, "strerror", None) or reason_of(str(error))
    return f"{name}: {why}" if name else why


def command(main):
    """Makes `main() -> None` a command that ends with one line and exit status 2 after a user's mistake.

    That is a UserError, a full or read-only disk, or a path that cannot be used.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        # A name that the terminal's encoding lacks is written as an escape, instead of ending the command.
        with contextlib.suppress(AttributeError):  # a notebook's stream
            sys.stdout.reconfigure(errors="backslashreplace")
            sys.stdin.reconfigure(errors="surrogateescape")  # names of files, which may be in any encoding
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
            sys.exit(2)
        except Exception as error:
            # TensorFlow has errors of its own for them, with the system's words.
            if any(words in str(error) for words in FULL):
                advice = "free space on the disk, or name another output"
            elif any(words in str(error) for words in UNUSABLE):
                advice = "give another path, or change its permissions"
            else:
                raise
            print(f"error: {printable(_explain_path(error))}; {advice}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            _end_interrupted()

    return run
