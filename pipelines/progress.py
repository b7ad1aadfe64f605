"""The bar over the images that a Beam job has done: images per second and the time left.

Beam's in-process runners report nothing before the end, and their workers may be other processes, so every shard's
writer grows a small file by a byte an image (`pipelines.shards`) and a thread here adds up the sizes. Workers that
do not share this machine's disk leave the bar where it is; their runner has a page of its own.
"""

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

INTERVAL = 0.5
SUFFIX = ".progress"


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
