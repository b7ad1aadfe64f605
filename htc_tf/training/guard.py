"""Guards of a training: steps that are not finite, a full disk, no memory, a lost worker, two processes in one run.

`training.loop` checks every step here; `training.step` itself applies no update that is not finite.
"""

import contextlib
import os
import re
import sys

import numpy as np
import tensorflow as tf

from htc_tf import lock
from htc_tf.errors import DISK_FULL, UserError, reason_of

# Errors of the operations that workers do together, once one of them has ended or does not answer.
LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,  # it has been started again
)


class WorkerLost(Exception):
    """Another worker has ended before the training has; all must start again."""


class FiniteGuard:
    """Stops a run at a step that is not finite, or skips a limited number of them."""

    def __init__(self, run, allowed, skipped=0):
        """
        Args:
            run: Run; the batch is saved as its `failed_batch`. None on a worker that saves nothing.
            allowed: int, steps that the whole run may skip.
            skipped: int, steps that earlier processes of the run have skipped.
        """
        self.run, self.allowed, self.skipped = run, allowed, skipped

    def check(self, number, finite, numbers, make_batch):
        """Checks one step.

        Args:
            number: int, the step.
            finite: bool, True if it is finite.
            numbers: {name: scalar}, everything else that the step returned.
            make_batch: Function that returns the step's global Batch, NumPy arrays; called to save it.
        Raises:
            FloatingPointError: The step is not finite and no more may be skipped. The message names the step, the
                learning rate and the losses that are not finite; the batch is saved.
        """
        if finite:
            return
        self.skipped += 1
        note = f"step {number} (learning rate {float(numbers['learning_rate']):.2e}): not finite: {bad_names(numbers)}"
        saved = self.save(number, make_batch)
        if self.skipped > self.allowed:
            raise FloatingPointError(
                f"{note}. The update was not applied, {saved}; the last checkpoint is good. A lower "
                "BASE_LEARNING_RATE, Experiment.clip_norm or Experiment.skip_non_finite may help"
            )
        print(f"skipped {note}; {saved} ({self.skipped} of {self.allowed} allowed)", file=sys.stderr)

    def save(self, number, make_batch):
        """Saves the batch. A failure to save it must not hide the step that is not finite."""
        if self.run is None:
            return "the first worker saves the batch"
        try:
            np.savez_compressed(self.run.failed_batch, step=number, **flatten(make_batch()))
        except (OSError, UserError, tf.errors.OpError) as error:
            return f"the batch could not be saved ({error})"
        return f"the batch is in {self.run.failed_batch}"


def bad_names(numbers):
    bad = [name for name, value in numbers.items() if not np.isfinite(value)]
    return ", ".join(bad) or "a gradient"


def flatten(batch, prefix=""):
    """Returns the leaves of a tree of named tuples by name: {"images": ..., "truth.boxes": ...}."""
    arrays = {}
    for name, value in batch._asdict().items():
        arrays |= flatten(value, f"{prefix}{name}.") if hasattr(value, "_asdict") else {prefix + name: value}
    return arrays


@contextlib.contextmanager
def disk_errors(path, checkpoints):
    """Turns a failure to write `path` into a UserError that names it and the checkpoint that the run resumes from."""
    try:
        yield
    except LOST_WORKER:
        raise
    except (OSError, tf.errors.OpError) as error:
        with contextlib.suppress(OSError):
            checkpoints.sweep()
        reason = getattr(error, "strerror", None) or reason_of(str(error))
        full = any(words in str(error) for words in DISK_FULL)
        room = f"make room for {checkpoints.megabytes:.0f} MB a checkpoint and " if full else ""
        raise UserError(
            f"{path} cannot be written ({reason}): {room}start again; the last good checkpoint: "
            f"{checkpoints.latest or 'none yet'}"
        ) from error


@contextlib.contextmanager
def worker_errors(cluster):
    """Turns the failure of an operation of several workers, because one has ended, into a WorkerLost."""
    try:
        yield
    except LOST_WORKER as error:
        if cluster.workers == 1:
            raise
        # The first sentence; after it come where TensorFlow found the error, and advice.
        text = reason_of(error.message).removeprefix("Collective ops is aborted by: ")
        reason = re.split(r"\. |Additional GRPC error", text)[0].strip()
        raise WorkerLost(
            f"another of the {cluster.workers} workers has ended or does not answer ({reason}): start all of them "
            "again with the same command, which continues from the last checkpoint"
        ) from error


@contextlib.contextmanager
def memory_errors(remedy):
    """Turns a lack of memory, in a step or an evaluation, into a UserError that says what needs less."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        reason = reason_of(error.message)
        raise UserError(f"out of memory ({reason}): {remedy}") from error


@contextlib.contextmanager
def run_lock(path):
    """Holds the lock file of a run: two trainings in one folder would overwrite each other's checkpoints silently.

    The system releases it when the process ends, even by kill -9. Readers (eval, TensorBoard) need none.

    Raises:
        UserError: Another process holds it, which the message names; or the file cannot be written.
    """
    busy = f"{path.parent} is being trained by {{holder}}: stop that one, or name another --workdir"
    new = not path.parent.exists()
    with contextlib.ExitStack() as stack:
        if new:  # a training that is refused leaves no empty folder
            stack.callback(remove_empty, path.parent)
        try:
            stack.enter_context(lock.hold(path, busy))
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written ({error.strerror}): name another folder") from error
        yield


def check_folder(folder):
    """Refuses a folder to write to later that is none, such as a link to a disk that is not mounted, or not usable.

    Raises:
        UserError: It exists, but is no folder, or files in it cannot be read and written.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, or a link to a missing one: restore it, or name another --workdir")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be read and written: change its permissions, or name another --workdir")


def remove_empty(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()
