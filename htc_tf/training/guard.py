"""What must not go on silently: numbers that are not finite, a disk that is full, too little memory.

`training.trainer` asks here after every step. The step itself applies no update that is not finite (`training.step`).
"""

import contextlib
import sys

import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError, reason_of


class FiniteGuard:
    """Stops a run at a step that is not finite, or passes over as many of them as are allowed."""

    def __init__(self, run, allowed, skipped=0):
        """
        Args:
            run: a Run, for its failed_batch.
            allowed: how many steps in the whole run may be passed over.
            skipped: how many have been, before this process.
        """
        self.run, self.allowed, self.skipped = run, allowed, skipped

    def check(self, number, finite, numbers, make_batch):
        """
        Args:
            number: of the step.
            finite: whether it was.
            numbers: {name: scalar}, what else the step returned.
            make_batch: -> the step's Batch, NumPy arrays; called to save it.
        Raises:
            FloatingPointError: the step was not finite and no more may be passed over. Step, learning rate and the
                losses that are not finite are named, and the batch is saved.
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
        """Saves the batch; failing to must not hide what it is saved for."""
        try:
            np.savez_compressed(self.run.failed_batch, step=number, **flatten(make_batch()))
        except (OSError, tf.errors.OpError) as error:
            return f"the batch could not be saved ({error})"
        return f"the batch is in {self.run.failed_batch}"


def bad_names(numbers):
    bad = [name for name, value in numbers.items() if not np.isfinite(value)]
    return ", ".join(bad) or "a gradient"


def flatten(batch, prefix=""):
    """A tree of named tuples -> {"images": ..., "truth.boxes": ...}."""
    arrays = {}
    for name, value in batch._asdict().items():
        arrays |= flatten(value, f"{prefix}{name}.") if hasattr(value, "_asdict") else {prefix + name: value}
    return arrays


@contextlib.contextmanager
def disk_errors(path, checkpoints):
    """Turns the failure to write `path` into a UserError that names it, and the checkpoint that a run goes on from."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError):
        raise  # another worker is gone
    except (OSError, tf.errors.OpError) as error:
        with contextlib.suppress(OSError):
            checkpoints.sweep()
        reason = getattr(error, "strerror", None) or reason_of(str(error))
        last = checkpoints.latest or "none yet"
        raise UserError(
            f"{path} cannot be written ({reason}): make room for {checkpoints.megabytes:.0f} MB a checkpoint and start "
            f"again; the last good checkpoint: {last}"
        ) from error


@contextlib.contextmanager
def memory_errors(batch_size):
    """Turns a lack of memory in a step into a UserError that says what takes less."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        reason = reason_of(error.message)
        raise UserError(
            f"out of memory ({reason}): lower BATCH_SIZE = {batch_size}, raise ACCUMULATE, or lower IMAGE_MAX_SIDE"
        ) from error
