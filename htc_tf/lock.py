"""Lock files: one process at a time in a folder, released by the system when the process ends in any way.

Training locks its run folder, data preparation its output folder. Without `fcntl` (Windows), and on file systems
without locks, nothing is locked.
"""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from htc_tf.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def hold(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file `path`, and removes it at the end.

    Args:
        path: Path of the lock file.
        busy: str, the error message if another process holds the lock; "{holder}" in it becomes that process.
    Raises:
        UserError: Another process holds the lock.
        OSError: The file cannot be created.
    """
    with _take(path, busy) as file:
        with contextlib.suppress(OSError):  # on a full disk the lock is held without a name in it
            file.truncate(0)
            now = datetime.datetime.now().isoformat(" ", "seconds")
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
            file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _take(path, busy):
    """Returns the open file, locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read().strip() or "another process"
            raise UserError(busy.format(holder=holder)) from None
        except OSError:
            return file  # a file system without locks
        # The previous holder may have removed the file between `open` and `flock`: then another file is the lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
