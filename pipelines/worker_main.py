"""A worker process of a Beam job on this machine: Beam's own, which ends when its job does.

    python -m pipelines.worker_main FOLDER

Started by `pipelines.workers`. Beam's worker waits for its job to speak, whatever has become of it.
"""

import logging
import os
import sys
import threading
import time

from apache_beam.runners.worker import sdk_worker_main

from pipelines import progress

INTERVAL = 0.2  # seconds
GRACE = 2  # seconds to leave the image at hand and remove what is half written


def main(folder: str) -> None:
    """Works until the job needs no more. `folder` is that of `progress.show_progress`."""
    # Beam's worker logs each of its steps, over the progress bar.
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.ERROR)
    threading.Thread(target=_watch, args=(folder, os.getppid()), daemon=True).start()
    sdk_worker_main.main(sys.argv[:1])


def _watch(folder, job):
    while os.getppid() == job and progress.stop_reason(folder) is None:
        time.sleep(INTERVAL)
    time.sleep(GRACE)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
