"""Processes that have TensorFlow already: forks of a server that has imported it and has run no operation.

Importing TensorFlow takes 3 to 5 CPU-seconds, a fork a tenth of one. A fork has arguments, an environment, a folder and
output of its own, and ends like any program. What TensorFlow reads as it is imported, such as TF_CPP_MIN_LOG_LEVEL, is
the server's: tests of these variables, of imports, and of memory start Python itself.
"""

import atexit
import ctypes
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h: orphans among the descendants become children


class Fork:
    """What the tests use of a subprocess.Popen."""

    def __init__(self, pid, args):
        self.pid, self.args, self.returncode = pid, args, None

    def poll(self):
        """Returns the exit status, the negative number of the signal that ended the process, or None if it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout=None):
        """Returns the exit status; raises subprocess.TimeoutExpired after `timeout` seconds."""
        end = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def start(*words, cwd=ROOT, env=None, stdout=os.devnull, stderr=os.devnull):
    """Starts `python WORDS...` in a fork; where there is no Linux, in a process of its own.

    Args:
        words: A script, or -m and a module, or -c and a program; and its arguments.
        cwd: Its folder.
        env: Its environment; None for this process's.
        stdout, stderr: Paths of the files that its output is written to.
    Returns:
        A Fork or a subprocess.Popen.
    """
    words, env = list(map(str, words)), dict(os.environ if env is None else env)
    if not sys.platform.startswith("linux"):
        with open(stdout, "w") as out, open(stderr, "w") as err:
            return subprocess.Popen([sys.executable, *words], cwd=cwd, env=env, stdout=out, stderr=err)
    server, request = _server(), {"words": words, "cwd": str(cwd), "env": env, "files": [str(stdout), str(stderr)]}
    prctl = ctypes.CDLL(None).prctl
    prctl(SUBREAPER, 1)  # the fork, whose parent ends at once, becomes this process's child
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    pid = int(server.stdout.readline())
    prctl(SUBREAPER, 0)
    return Fork(pid, words)


def run(*words, cwd=ROOT, env=None, timeout=500):
    """Runs `python WORDS...` to its end, see `start`. Returns a subprocess.CompletedProcess with its output as text."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start(*words, cwd=cwd, env=env, stdout=files[0], stderr=files[1])
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(map(str, words)), status, *(file.read_text() for file in files))


@functools.cache
def _server():
    """Starts this process's server, which ends with it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def end():
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    return server


def server_seconds():
    """Returns the CPU-seconds of this process's server so far; os.times() has them only after the end."""
    if not _server.cache_info().currsize:
        return 0.0
    fields = Path(f"/proc/{_server().pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _serve():
    """Forks for each line of standard input, and returns the requests in the forks and None in the server."""
    while line := sys.stdin.readline():
        reading, writing = os.pipe()
        parent = os.fork()
        if not parent:
            if not (pid := os.fork()):
                os.close(reading)
                os.close(writing)
                return json.loads(line)
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.waitpid(parent, 0)
        os.close(writing)
        print(os.read(reading, 20).decode(), flush=True)
        os.close(reading)
    return None


def _become(words, cwd, env, files):
    """Makes this process what `start` describes, and runs the program."""
    for descriptor, name in enumerate([os.devnull, *files]):
        new = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(new, descriptor)
        os.close(new)
    sys.stdin = os.fdopen(0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    first, *rest = words
    folder = cwd if first in ("-m", "-c") else str(Path(first).parent)
    sys.path[:0] = [folder, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(first, run_name="__main__")


def _import():
    """Imports what most commands import, TensorFlow among it."""
    from tensorflow.python.eager import context

    from htc_tf import config

    config.import_gin()
    import htc_tf.evaluation.records
    import htc_tf.training.trainer  # noqa: F401

    assert context.context()._context_handle is None, "an import has run an operation: no fork would be safe"
    gc.freeze()  # the forks share the pages of what is not collected


if __name__ == "__main__":
    _import()
    request = _serve()
    if request is not None:
        _become(**request)
