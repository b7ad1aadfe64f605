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
from collections.abc import Iterator

import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

from htc_tf.errors import UserError
from pipelines import job_progress

ADVICE = "is memory exhausted? Finished shards are kept: run the same command again, with fewer --direct_num_workers"
INTERVAL = 0.2  # seconds
PATIENCE = 10  # seconds that a worker gets to end with the job; one that is stopped by a signal never does
READER = "apache_beam.runners.worker.data_plane"
_folders = []  # progress folders of the running jobs


@contextlib.contextmanager
def monitor(folder: str) -> Iterator[None]:
    """If a worker process dies while the block runs, the others stop and the job fails.

    Args:
        folder: The folder of `job_progress.show_progress`, to stop the workers.
    """
    # The threads that read from a dead worker's connection fail too; their tracebacks add nothing.
    hook, log, reader = threading.excepthook, logging.getLogger("apache_beam"), logging.getLogger(READER)
    level = log.level

    def hide(arguments):
        if not issubclass(arguments.exc_type, grpc.RpcError):
            hook(arguments)

    def keep(record):
        return not (record.exc_info and isinstance(record.exc_info[1], grpc.RpcError))

    _folders.append(folder)
    threading.excepthook = hide
    reader.addFilter(keep)
    try:
        yield
    finally:
        _folders.remove(folder)
        threading.excepthook = hook
        reader.removeFilter(keep)
        log.setLevel(level)


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class MonitoredWorker(SubprocessSdkWorkerHandler):
    """Runs `pipelines.worker_main`; if it dies, answers all its open requests with an error."""

    def start_worker(self) -> None:
        self._closed = threading.Event()
        # Without `exec`, the worker would be the child of a shell, which outlives this process.
        self._folder = _folders[-1] if _folders else os.devnull
        words = [sys.executable, "-m", "pipelines.worker_main", self._folder, str(os.getpid())]
        command = ("exec " if os.name == "posix" else "") + shlex.join(words)
        self.worker = SubprocessSdkWorker(command.encode(), self.control_address, self.provision_info, self.worker_id)
        self.worker_thread = threading.Thread(target=self._run, name="run_worker", daemon=True)
        self.worker_thread.start()

    def close(self) -> None:
        self._closed.set()
        super().close()

    def stop_worker(self) -> None:
        self.worker_thread.join(PATIENCE)

    def _run(self):
        status = 0
        try:
            self.worker.run()
        except RuntimeError as error:  # "Worker subprocess exited with return code -9"
            status = int(str(error).rpartition(" ")[2])
        if self._closed.is_set():
            return
        reason = f"a worker process {_describe_end(status)}; {ADVICE}"
        with contextlib.suppress(OSError):
            job_progress.stop(self._folder, reason)
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        while not self._closed.wait(INTERVAL):
            waiting = self.control_conn._futures_by_id
            for instruction in list(waiting):
                response = beam_fn_api_pb2.InstructionResponse(
                    instruction_id=instruction, error=f"{UserError.__name__}: {reason}"
                )
                with contextlib.suppress(KeyError):
                    waiting.pop(instruction).set(response)


def _describe_end(status):
    """Returns how a process ended, from its exit status, which is negative after a signal."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-status}"
