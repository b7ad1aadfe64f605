"""The bar over the images that a Beam job has done: images per second and the time left.

Beam's in-process runners report nothing before the end, and their workers may be other processes, so every shard's
writer grows a small file by a byte an image (`pipelines.shards`) and a thread here adds up the sizes. Workers that
write to another machine's disk leave the bar where it is; their runner has a page of its own.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

INTERVAL = 0.5
SUFFIX = ".progress"


@contextlib.contextmanager
def show_progress(folder: Path, total: int, done: int) -> Iterator[None]:
    """A bar while the block runs and its workers grow the files `*.progress` of the folder.

    `done` of the `total` images were done before.
    """
    _clear(folder)
    stopped = threading.Event()
    with tqdm(total=total, initial=done, desc="records", unit="image") as bar:

        def watch():
            while not stopped.wait(INTERVAL):
                bar.update(done + _count(folder) - bar.n)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            bar.update(done + _count(folder) - bar.n)
    _clear(folder)


def _count(folder):
    return sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))


def _clear(folder):
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
