"""Worker process of a Beam job on this machine: Beam's own worker, which also ends when its job does.

    python -m pipelines.worker_main FOLDER PROCESS

`pipelines.workers` starts it. Beam's worker alone would wait forever for a job that has died. A module of its own,
because the watching thread must start before Beam is imported, which takes seconds.
"""

import logging
import os
import shutil
import sys
import threading
import time

from . import job_progress, runners

INTERVAL = 0.2  # seconds
GRACE = 2  # seconds to finish the current image and remove unfinished files
PAUSE = 0.1  # seconds after which the end of the job is known


def main(folder: str, job: int) -> None:
    """Works until the job is finished.

    Args:
        folder: The folder of `job_progress.show_progress`.
        job: Process id of the job, the parent of this process.
    """
    threading.Thread(target=_watch, args=(folder, job), daemon=True).start()
    sys.stderr = _Messages(sys.stderr, folder, job)
    with runners.without_warnings():
        from apache_beam.runners.worker import sdk_worker_main

    # Beam's worker logs every step, which would disturb the progress bar.
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.ERROR)
    sdk_worker_main.main(sys.argv[:1])


class _Messages:
    """Standard error until the job has ended; then Beam's threads would print tracebacks of lost connections."""

    def __init__(self, file, folder, job):
        self._file, self._folder, self._job = file, folder, job

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, text):
        time.sleep(PAUSE)
        if not _has_ended(self._folder, self._job):
            self._file.write(text)


def _has_ended(folder, job):
    # On Windows the parent is a shell, which ends with the worker.
    return (os.name == "posix" and os.getppid() != job) or job_progress.stop_reason(folder) is not None


def _watch(folder, job):
    while not _has_ended(folder, job):
        time.sleep(INTERVAL)
    time.sleep(GRACE)
    if job_progress.stop_reason(folder) is None:  # the job was killed, and has not removed its folder
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
