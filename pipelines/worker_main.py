"""Worker process of a Beam job on this machine: Beam's own worker, which also ends when its job does.

    python -m pipelines.worker_main FOLDER PROCESS

`pipelines.workers` starts it. Beam's worker alone would wait forever for a job that has died. A module of its own,
because the watching thread must start before Beam is imported, which takes seconds.
"""

import logging
import os
import sys
import threading
import time

from pipelines import job_progress

INTERVAL = 0.2  # seconds
GRACE = 2  # seconds to finish the current image and remove unfinished files


def main(folder: str, job: int) -> None:
    """Works until the job is finished.

    Args:
        folder: The folder of `job_progress.show_progress`.
        job: Process id of the job, the parent of this process.
    """
    threading.Thread(target=_watch, args=(folder, job), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    # Beam's worker logs every step, which would disturb the progress bar.
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.ERROR)
    sdk_worker_main.main(sys.argv[:1])


def _watch(folder, job):
    # On Windows the parent is a shell, which ends with the worker.
    while (os.name != "posix" or os.getppid() == job) and job_progress.stop_reason(folder) is None:
        time.sleep(INTERVAL)
    time.sleep(GRACE)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
