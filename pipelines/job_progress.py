"""Progress of a Beam job: a bar over all images, fed by files that the workers append to, and the signal to stop.

Beam's in-process runners report nothing before the end, and their workers may be other processes. So the writer of each
shard (`pipelines.shards`) appends one byte per image to a small file, and a thread here adds up the sizes. Workers that
do not share this machine's disk leave the bar unchanged; their runner has its own monitoring page. The same folder
tells the workers of a failed job to stop.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from htc_tf.progress import progress_bar

INTERVAL = 0.5  # seconds between two looks at the files
SUFFIX = ".progress"
STOP = "stop"


class Progress:
    """A worker's side, for one shard. If `folder` does not exist, nothing is reported."""

    def __init__(self, folder: str, shard: int):
        path = os.path.join(folder, f"{shard:05d}{SUFFIX}") if os.path.isdir(folder) else os.devnull
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._stop = os.path.join(folder, STOP)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def advance(self) -> None:
        """Counts one image.

        Raises:
            Stopped: The job has failed.
        """
        with contextlib.suppress(OSError):  # if the disk of the temporary folder is full, only the bar suffers
            self._file.write(b".")
        if os.path.exists(self._stop):
            raise Stopped


class Stopped(Exception):
    """The job has failed elsewhere, so this worker's output is useless."""


def stop(folder: str, reason: str) -> None:
    """Makes every worker that shares the folder end before its next image. The first reason is kept.

    Raises:
        OSError: The folder does not exist on this machine, or its disk is full.
    """
    with contextlib.suppress(FileExistsError), open(os.path.join(folder, STOP), "x", encoding="utf-8") as file:
        file.write(reason)


def stop_reason(folder: str) -> str | None:
    """Returns why the workers were stopped; None if they were not."""
    path = Path(folder, STOP)
    return path.read_text(encoding="utf-8") if path.exists() else None


@contextlib.contextmanager
def show_progress(total: int, done: int) -> Iterator[str]:
    """Shows a bar while the block runs; yields the folder for the workers' `Progress`.

    Args:
        total: Number of images.
        done: Number of images that earlier runs finished.
    """
    finished = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="htc_tf-progress-") as folder,
        progress_bar(total=total, initial=done, desc="records", unit="image") as bar,
    ):

        def update():
            written = sum(path.stat().st_size for path in Path(folder).glob(f"*{SUFFIX}"))
            bar.update(done + written - bar.n)

        def update_until_finished():
            while not finished.wait(INTERVAL):
                update()

        thread = threading.Thread(target=update_until_finished, daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            finished.set()
            thread.join()
            update()
