"""One process at a time in a folder: a lock file that the system releases when its holder ends, however it ends.

Training holds one in its run folder, data preparation in its output folder. Without `fcntl` (Windows), and on file
systems that cannot lock, nothing is held.
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
    fcntl = None


@contextlib.contextmanager
def hold(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file `path`, and removes it at the end.

    Args:
        busy: the message if another process holds it; "{holder}" in it becomes that process.

    Raises:
        UserError: another process holds the lock.
        OSError: the file cannot be created.
    """
    with _take(path, busy) as file:
        with contextlib.suppress(OSError):  # a full disk: the lock is held without its holder's name
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
    """The open file, locked."""
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
        # The holder before may have removed the file between our two calls: then another one is the lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
