"""Checkpoints of a run: RUN/checkpoints. Saving is acknowledged only when the files are in place.

A checkpoint that does not hold every variable of the model is an error: TensorFlow alone would restore what it finds
and say nothing.
"""

import tensorflow as tf

from htc_tf.errors import UserError


class Checkpoints:
    """Saves and restores a model, and in training its optimiser and step."""

    def __init__(self, run, model, optimizer=None, step=None, keep=3):
        tracked = {"model": model}
        if optimizer is not None:
            tracked |= {"optimizer": optimizer, "step": step}
        self.checkpoint = tf.train.Checkpoint(**tracked)
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(run.checkpoints), max_to_keep=keep)

    def save(self, step):
        return self.manager.save(checkpoint_number=step)

    def restore_latest(self):
        """Restores the newest checkpoint, if there is one. Returns its path or None."""
        path = self.manager.latest_checkpoint
        if path is None:
            return None
        try:
            # A checkpoint of training also holds the optimiser, which other commands leave alone.
            self.checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
        except (AssertionError, ValueError, tf.errors.OpError, IndexError) as error:
            raise UserError(f"checkpoint {path} does not fit this configuration: {mismatches(path, self)}") from error
        return path


def mismatches(path, checkpoints):
    """One line that says which variables of the model the checkpoint lacks or holds in another shape."""
    try:
        stored = tf.train.list_variables(path)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        return f"unreadable ({str(error).splitlines()[0]})"
    shapes = sorted(
        tuple(shape) for name, shape in stored if name.startswith("model/") and "OPTIMIZER_SLOT" not in name
    )
    model = checkpoints.checkpoint.model
    wanted = sorted((tuple(v.shape), v.name) for v in model.variables)
    missing = []
    for shape, name in wanted:
        if shape in shapes:
            shapes.remove(shape)
        else:
            missing.append(f"{name} {list(shape)}")
    if not missing:
        return "its variables are arranged otherwise"
    listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
    return f"it lacks {listed}"
