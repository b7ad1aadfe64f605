"""A worker process of a Beam job on this machine: Beam's own, which ends when its job does.

    python -m pipelines.worker_main FOLDER PROCESS

Started by `pipelines.workers`. Beam's worker waits for its job to speak, whatever has become of it.
"""

import logging
import os
import sys
import threading
import time

from pipelines import job_progress

INTERVAL = 0.2  # seconds
GRACE = 2  # seconds to leave the image at hand and remove what is half written


def main(folder: str, job: int) -> None:
    """Works until the job needs no more.

    Args:
      folder: that of `job_progress.show_progress`.
      job: process id of the job, the parent of this process.
    """
    # Before Beam is imported, which takes seconds.
    threading.Thread(target=_watch, args=(folder, job), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    # Beam's worker logs each of its steps, over the progress bar.
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.ERROR)
    sdk_worker_main.main(sys.argv[:1])


def _watch(folder, job):
    # On Windows a shell is in between, which ends with the worker.
    while (os.name != "posix" or os.getppid() == job) and job_progress.stop_reason(folder) is None:
        time.sleep(INTERVAL)
    time.sleep(GRACE)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
