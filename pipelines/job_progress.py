"""Progress of a Beam job: a bar over all images, fed by files that the workers append to, and the signal to stop.

Beam's runners report nothing before the end, and their workers may be other processes. So the writer of each shard
(`pipelines.shards`) appends one byte per image to a small file, and a thread here adds up the sizes. Workers that do
not share this machine's disk advance the bar by whole shards, as these appear in the output folder. The same folder of
small files tells the workers of a failed job to stop.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from htc_tf.progress import progress_bar

INTERVAL = 0.5  # seconds between two looks at the files
LISTING_INTERVAL = 3  # the same for the output folder, which may be in a store that charges for each listing
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
def show_progress(total: int, list_finished: Callable[[], dict[int, int]]) -> Iterator[str]:
    """Shows a bar while the block runs; yields the folder for the workers' `Progress`.

    Args:
        total: Number of images.
        list_finished: Function that returns the number of images of each finished shard, by the shard's number.
    """
    ended = threading.Event()
    finished = list_finished()
    with (
        tempfile.TemporaryDirectory(prefix="htc_tf-progress-") as folder,
        progress_bar(total=total, initial=sum(finished.values()), desc="records", unit="image") as bar,
    ):

        def update():
            written = {int(path.stem): path.stat().st_size for path in Path(folder).glob(f"*{SUFFIX}")}
            bar.update(sum((written | finished).values()) - bar.n)

        def update_until_ended():
            nonlocal finished
            listed = time.monotonic()
            while not ended.wait(INTERVAL):
                if time.monotonic() - listed > LISTING_INTERVAL:
                    with contextlib.suppress(OSError):  # only the bar suffers
                        finished = list_finished()
                    listed = time.monotonic()
                update()

        thread = threading.Thread(target=update_until_ended, daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(OSError):
                finished = list_finished()
            update()
