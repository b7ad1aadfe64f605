"""One training at a time in a run's folder: two would overwrite each other's checkpoints without any error.

Held by `training.trainer` from before the model is built until the end. Readers (eval, TensorBoard) need none.
"""

import contextlib
import datetime
import fcntl
import os
import socket

from htc_tf.errors import UserError


@contextlib.contextmanager
def hold(path):
    """Holds the lock file `path`. The system lets go of it when the process ends, however it ends: kill -9 leaves none.

    Raises:
        UserError: another process holds it, which the message names; or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}): name another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{path.parent} is being trained by {holder}: stop that one, or name another --workdir"
            ) from None
        file.truncate(0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield
