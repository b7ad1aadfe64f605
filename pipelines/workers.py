"""Monitored worker processes on this machine: if one is killed, the job ends.

Beam starts them for --direct_running_mode=multi_processing, and waits forever for the answer of one that the system has
killed, as it does when memory runs out. Importing this module replaces Beam's handler of such workers.
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator

import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

from htc_tf.errors import UserError

from . import job_progress

KEPT = "finished shards are kept: run the same command again"
INTERVAL = 0.2  # seconds
PATIENCE = 5  # seconds that the other workers get to end; one that a signal has suspended never does
READER = "apache_beam.runners.worker.data_plane"
_folders = []  # progress folders of the running jobs
_workers = []  # the open workers of all jobs


@contextlib.contextmanager
def monitor(folder: str) -> Iterator[None]:
    """If a worker process dies while the block runs, or a signal ends the job, the workers stop and the job fails.

    Args:
        folder: The folder of `job_progress.show_progress`, to stop the workers.
    """
    # The threads that read from a dead worker's connection fail too; their tracebacks add nothing.
    hook, log, reader = threading.excepthook, logging.getLogger("apache_beam"), logging.getLogger(READER)
    level, ended = log.level, threading.Event()

    def hide(arguments):
        if not issubclass(arguments.exc_type, grpc.RpcError):
            hook(arguments)

    def keep(record):
        return not (record.exc_info and isinstance(record.exc_info[1], grpc.RpcError))

    _folders.append(folder)
    threading.excepthook = hide
    reader.addFilter(keep)
    thread = threading.Thread(target=_fail_workers, args=(folder, ended), daemon=True)
    thread.start()
    try:
        with contextlib.ExitStack() as stack:
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.enter_context(_stop_at(number, folder))
            yield
    finally:
        ended.set()
        thread.join()
        _folders.remove(folder)
        threading.excepthook = hook
        reader.removeFilter(keep)
        log.setLevel(level)


@contextlib.contextmanager
def _stop_at(number, folder):
    """Ctrl-C stops the workers too: Beam waits for them before it raises KeyboardInterrupt, and prints their errors."""
    stderr, before = sys.stderr, signal.getsignal(number)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def interrupt(*arguments):
        with contextlib.suppress(OSError):
            job_progress.stop(folder, "interrupted")
        logging.disable(logging.CRITICAL)
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        before(*arguments)

    signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
        logging.disable(logging.NOTSET)
        sys.stderr = stderr


def _fail_workers(folder, ended):
    """After the job is stopped, fails the requests to dead workers at once and to the others after `PATIENCE`."""
    stopped = None
    while not ended.wait(INTERVAL):
        if (reason := job_progress.stop_reason(folder)) is None:
            continue
        stopped = stopped or time.monotonic()
        late = time.monotonic() - stopped > PATIENCE
        for worker in list(_workers):
            if worker.folder == folder and (late or worker.ended.is_set()):
                worker.fail(reason)


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class MonitoredWorker(SubprocessSdkWorkerHandler):
    """Runs `pipelines.worker_main`; if it dies, stops the job.

    Attributes:
        folder: The folder of `job_progress.show_progress`.
        ended: Event, set when the process has ended.
    """

    def start_worker(self) -> None:
        self._closed, self.ended = threading.Event(), threading.Event()
        self.folder = _folders[-1] if _folders else os.devnull
        _workers.append(self)
        self._id_file = os.path.join(self.folder, f"{self.worker_id}.pid")
        command = shlex.join([sys.executable, "-m", f"{__package__}.worker_main", self.folder, str(os.getpid())])
        if os.name == "posix":
            # Without `exec`, the worker would be the child of a shell, which outlives this process. Ctrl-C reaches the
            # workers too, but it is the job that ends them.
            write_id = f"{{ echo $$ >{shlex.quote(self._id_file)}; }} 2>/dev/null"
            command = f"trap '' INT; {write_id}; exec {command}"
        self.worker = SubprocessSdkWorker(command.encode(), self.control_address, self.provision_info, self.worker_id)
        self.worker_thread = threading.Thread(target=self._run, name="run_worker", daemon=True)
        self.worker_thread.start()

    def close(self) -> None:
        self._closed.set()
        _workers.remove(self)
        super().close()

    def stop_worker(self) -> None:
        self.worker_thread.join(PATIENCE)
        if self.worker_thread.is_alive():
            with contextlib.suppress(OSError, ValueError), open(self._id_file, encoding="ascii") as file:
                os.kill(int(file.read()), signal.SIGKILL)

    def fail(self, reason: str) -> None:
        """Answers all open requests with an error."""
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        waiting = self.control_conn._futures_by_id
        for instruction in list(waiting):
            response = beam_fn_api_pb2.InstructionResponse(
                instruction_id=instruction, error=f"{UserError.__name__}: {reason}"
            )
            with contextlib.suppress(KeyError):
                waiting.pop(instruction).set(response)

    def _run(self):
        status = 0
        try:
            self.worker.run()
        except RuntimeError as error:  # "Worker subprocess exited with return code -9"
            status = int(str(error).rpartition(" ")[2])
        self.ended.set()
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                job_progress.stop(self.folder, _explain_end(status))


def _explain_end(status):
    """Returns the error message for a process that ended with this status, which is negative after a signal."""
    if status >= 0:
        return f"a worker process ended with status {status}, its message is above; {KEPT}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"a worker process was killed by {name}; is memory exhausted? {KEPT}, with fewer --direct_num_workers"
