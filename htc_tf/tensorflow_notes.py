"""Notes that TensorFlow writes to standard error despite TF_CPP_MIN_LOG_LEVEL, kept from the commands' users.

At the import, two libraries of TensorFlow 2.16 and later log "I0000 …" lines while they are loaded, before the level is
read (https://github.com/tensorflow/tensorflow/issues/100442). On a machine without an NVIDIA driver, its first
operation adds an error of CUDA. In training, XLA logs its first compilation through absl, which does not know the
level, and as an error that the streams of a CPU have no priority. Any other line passes.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
NOTES = (
    r"^WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$",
    r"^I[0-9]{4} [0-9:.]+ +[0-9]+ [A-Za-z0-9_]+\.(cc|h):[0-9]+\] ",
)
NO_DRIVER = r"^E[0-9]{4} [0-9:.]+ +[0-9]+ cuda_[a-z]+\.cc:[0-9]+\] failed call to cuInit: "
NO_PRIORITY = r" SetPriority unimplemented for this stream\.$"
DRIVERS = ("/proc/driver/nvidia", "/dev/dxg")  # of Linux; of Windows, as its Linux subsystem shows it


def hide_notes():
    """Hides the notes of this process's import of TensorFlow, unless TF_CPP_MIN_LOG_LEVEL is 0."""
    if os.environ.setdefault(LEVEL, "2") != "0" and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the package tensorflow as Python does, and executes it without its notes."""

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == "tensorflow" else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def exec_module(module):
                del spec.loader.exec_module
                sys.meta_path.remove(self)
                with without_lines(NOTES if has_driver() else (*NOTES, NO_DRIVER)):
                    execute(module)
                    if not has_driver():
                        module.config.list_physical_devices("GPU")  # looks for a driver now, in place of later

            spec.loader.exec_module = exec_module
        return spec


def has_driver():
    return any(map(os.path.exists, DRIVERS))


@contextlib.contextmanager
def without_xla_notes():
    """Drops XLA's notes on a training, unless TF_CPP_MIN_LOG_LEVEL is 0.

    What Python writes, such as a progress bar without an end of line, goes directly to standard error.
    """
    if os.environ.get(LEVEL) == "0" or sys.stderr is None:
        yield
        return
    options = {"encoding": sys.stderr.encoding, "errors": sys.stderr.errors}
    with (
        open(os.dup(2), "w", buffering=1, **options) as direct,
        without_lines((*NOTES, NO_PRIORITY)),
        contextlib.redirect_stderr(direct),
    ):
        yield


@contextlib.contextmanager
def without_lines(patterns):
    """Drops lines that match one of the regular expressions from what this process writes to file descriptor 2.

    grep drops them: a process of its own, which still writes what came before a crash of this one, and reads on if a
    child keeps the descriptor. Without grep, or with standard error closed, all lines pass.
    """
    grep = shutil.which("grep")
    if grep is None or sys.stderr is None:
        yield
        return
    with contextlib.suppress(ValueError):  # a stream that is closed
        sys.stderr.flush()
    options = ["-a", "-v", "-E", "--line-buffered"]
    reader = subprocess.Popen(
        [grep, *options, *(word for pattern in patterns for word in ("-e", pattern))],
        stdin=subprocess.PIPE,
        stdout=2,
        start_new_session=True,  # Ctrl-C ends us, and grep after our last line
        env={**os.environ, "LC_ALL": "C"},
    )
    kept = os.dup(2)
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a child has kept the pipe
            reader.wait(timeout=2)
