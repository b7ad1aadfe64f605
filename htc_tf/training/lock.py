"""One training at a time in a run's folder: two would overwrite each other's checkpoints without any error.

Held by `training.trainer` from before the model is built until the end. Readers (eval, TensorBoard) need none.
"""

import contextlib

from htc_tf import lock
from htc_tf.errors import UserError


@contextlib.contextmanager
def hold(path):
    """Holds the lock file `path`. The system lets go of it when the process ends, however it ends: kill -9 leaves none.

    Raises:
        UserError: another process holds it, which the message names; or the file cannot be written.
    """
    busy = f"{path.parent} is being trained by {{holder}}: stop that one, or name another --workdir"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(path, busy))
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written ({error.strerror}): name another folder") from error
        yield
