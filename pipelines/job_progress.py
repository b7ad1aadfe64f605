"""The bar over the images that a Beam job has done: images per second and the time left.

Beam's in-process runners report nothing before the end, and their workers may be other processes, so every shard's
writer grows a small file by a byte an image (`pipelines.shards`) and a thread here adds up the sizes. Workers that
do not share this machine's disk leave the bar where it is; their runner has a page of its own. By the same folder the
workers of a job that has failed are stopped.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

INTERVAL = 0.5
SUFFIX = ".progress"
STOP = "stop"


class Progress:
    """A worker's side, of one shard: a byte an image, unbuffered. `folder` need not be there."""

    def __init__(self, folder: str, shard: int):
        path = os.path.join(folder, f"{shard:05d}{SUFFIX}") if os.path.isdir(folder) else os.devnull
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._stop = os.path.join(folder, STOP)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def advance(self) -> None:
        """Counts an image.

        Raises:
          Stopped: the job is over.
        """
        with contextlib.suppress(OSError):  # the temporary folder's disk is full: the bar stands still
            self._file.write(b".")
        if os.path.exists(self._stop):
            raise Stopped


class Stopped(Exception):
    """The job has failed elsewhere: what this worker still writes is of no use to it."""


def stop(folder: str, reason: str) -> None:
    """Makes every worker that sees the folder end before its next image. The first reason counts.

    Raises:
      OSError: there is no such folder on this machine, or no space in it.
    """
    with contextlib.suppress(FileExistsError), open(os.path.join(folder, STOP), "x", encoding="utf-8") as file:
        file.write(reason)


def stop_reason(folder: str) -> str | None:
    """Why the workers were stopped; None if they were not."""
    path = Path(folder, STOP)
    return path.read_text(encoding="utf-8") if path.exists() else None


@contextlib.contextmanager
def show_progress(total: int, done: int) -> Iterator[str]:
    """A bar while the block runs; yields the folder whose files `*.progress` the workers grow.

    `done` of the `total` images were done before.
    """
    stopped = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="htc_tf-progress-") as folder,
        tqdm(total=total, initial=done, desc="records", unit="image") as bar,
    ):

        def watch():
            while not stopped.wait(INTERVAL):
                bar.update(done + _count(folder) - bar.n)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            stopped.set()
            thread.join()
            bar.update(done + _count(folder) - bar.n)


def _count(folder):
    return sum(path.stat().st_size for path in Path(folder).glob(f"*{SUFFIX}"))
