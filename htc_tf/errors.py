"""User errors in one line, and the exit statuses of the commands.

Any module may raise UserError; only commands catch it, through the decorator `command`. Exit status 0 is success; 2 is
a user's mistake, a full disk or an unusable path (one line on standard error, no traceback); 130 is Ctrl-C; 1 is
anything else, a bug, with a traceback.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import re
import shlex
import signal
import sys

OLDEST, NEWEST = (3, 10), (3, 13)  # as in setup.cfg
PYTHONS = "Python 3.10, 3.11, 3.12 or 3.13"
# The extra of setup.cfg that brings a package; the others come with htc_tf itself.
EXTRAS = {
    **dict.fromkeys(("tensorflow", "tf_keras"), "cpu"),
    **dict.fromkeys(("apache_beam", "yaml"), "prepare"),
    **dict.fromkeys(("tensorboard", "keras_cv"), "train"),
    "faster_coco_eval": "fast",
    "av": "video",
    "argcomplete": "completion",
    **dict.fromkeys(("dask", "distributed"), "dask"),
    "supervision": "supervision",
    "pillow_heif": "heic",
    "rasterio": "geotiff",
    **dict.fromkeys(("tf2onnx", "onnx", "onnxruntime"), "onnx"),
}
INTERRUPTED = 128 + signal.SIGINT  # exit status
MAX_REASON = 300  # characters of TensorFlow's message that a line quotes
# The system's messages for a full or read-only disk.
DISK_FULL = tuple(
    os.strerror(getattr(errno, name)) for name in ("ENOSPC", "EDQUOT", "EROFS", "EFBIG") if hasattr(errno, name)
)
# The system's messages for a path that cannot be used.
UNUSABLE_PATH = tuple(os.strerror(getattr(errno, name)) for name in ("EACCES", "ENAMETOOLONG", "ELOOP", "ENOTDIR"))
# Lines around TensorFlow's reason, which say where the failed operation was defined.
TRACE = re.compile(r"(Graph execution error:|Detected at node .*|<stack traces.*|File \".*|\d+ root error\(s\).*)")


class UserError(Exception):
    """A mistake in a file, a key, a parameter or a flag; the message names it and says what to do."""

    # Keras adds a layer's arguments, many lines, to the message of an exception without this attribute.
    _keras_call_info_injected = True


class ModelFailed(UserError):
    """The model failed on one request; the next may succeed."""


class TooLate(UserError):
    """The model did not answer in time."""


def reason_of(message):
    """Returns the reason in a TensorFlow error's message, in one line without stack traces and operation names."""
    # The message ends with a reference to the operation and hints.
    text = re.split(r"\[\[\{\{node|\[Op:", message)[0]
    lines = [re.sub(r"\{\{function_node.*?\}\}", "", line).strip() for line in text.splitlines()]
    reason = " ".join(line for line in lines if line and not TRACE.fullmatch(line))
    return reason[:MAX_REASON] or "no reason given"


def user_error_in(text):
    """Returns the message of a UserError that the text of another library's error quotes; None without one."""
    quoted = re.search(r"UserError: (.*)", text)
    return quoted and quoted[1]


def printable(text):
    """Returns the text in one line that is safe on a terminal: control characters and lone surrogates are escaped."""
    escaped = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
    return "".join(escaped)


def shell_word(path):
    """Returns a path as a word that bash reads back, without characters that a terminal may obey."""
    if (text := str(path)).isprintable():
        return shlex.quote(text)
    escapes = {"\\": "\\\\", "'": "\\'"}
    letters = (
        escapes.get(letter, letter)
        if letter.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in text
    )
    return f"$'{''.join(letters)}'"


def listed(names, limit=8):
    """Returns a text that lists the first names and counts the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def start_command():
    """Makes a Python that lacks a package, or is too old or too new, end a `python -m` command with one line.

    `htc_tf/__init__.py` calls it.
    """
    if sys.version_info < OLDEST:
        _refuse_python("too old for htc_tf")
    if sys.version_info[:2] > NEWEST:
        _refuse_python("too new for htc_tf's TensorFlow")
    sys.excepthook = _report_missing


def _end_interrupted():
    """Ends the process as a shell reports a program that Ctrl-C ended."""
    print("interrupted", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _end_mistaken(error):
    """Ends the process with the line of a UserError."""
    print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(2)


def _report_missing(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):  # during imports, which take seconds
        _end_interrupted()
    if issubclass(kind, UserError):  # a package that refuses its import
        _end_mistaken(error)
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or package in ("", "htc_tf", "pipelines"):
        sys.__excepthook__(kind, error, trace)
        return
    # Without pycocotools, which comes with htc_tf, the whole environment is another one.
    extra = EXTRAS.get(package) if importlib.util.find_spec("pycocotools") else None
    advice = f"`pip install 'htc_tf[{extra}]'` brings it, and so does `make env`" if extra else None
    _refuse_python(f"without the package {package}", advice)


def _refuse_python(reason, advice=None):
    here = ".".join(map(str, sys.version_info[:2]))
    advice = advice or f"run `. .venv/bin/activate` first; `make env` makes or renews .venv, with {PYTHONS}"
    print(f"error: this Python ({here}, {sys.executable}) is {reason}: {advice}", file=sys.stderr)
    sys.exit(2)


def _explain_path(error):
    """Returns the file, if the error names it, and the system's message."""
    name, why = getattr(error, "filename", None), getattr(error, "strerror", None) or reason_of(str(error))
    return f"{name}: {why}" if name else why


def _open_streams():
    """Opens the null device in place of standard streams that are closed, as `>&-` does, where Python has None."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets this number, the lowest one, which the next file would get
        if getattr(sys, f"__{name}__") is None:
            stream = os.fdopen(number, mode, closefd=False)
            setattr(sys, f"__{name}__", stream)
            if getattr(sys, name) is None:
                setattr(sys, name, stream)


def command(main):
    """Decorates the main function of a command, so that a user's mistake ends it with one line and exit status 2.

    Mistakes are a UserError, a full or read-only disk, and a path that cannot be used.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        _open_streams()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow starts: its notes are left out
        # Writes characters that the terminal's encoding lacks as escapes, instead of failing.
        with contextlib.suppress(AttributeError):  # a notebook's stream has no `reconfigure`
            sys.stdout.reconfigure(errors="backslashreplace")
            sys.stdin.reconfigure(errors="surrogateescape")  # file names may be in any encoding
        try:
            main(*args, **kwargs)
            print(end="", flush=True)  # fails here rather than at exit if nobody reads
        except UserError as error:
            _end_mistaken(error)
        except BrokenPipeError:
            # What reads the output has ended, as `head` does: what is left, which Python writes at exit, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            # TensorFlow raises its own classes for these errors, with the system's messages.
            if any(words in str(error) for words in DISK_FULL):
                advice = "free space on the disk, or name another output"
            elif any(words in str(error) for words in UNUSABLE_PATH):
                advice = "give another path, or change its permissions"
            else:
                raise
            print(f"error: {printable(_explain_path(error))}; {advice}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            _end_interrupted()

    return run
