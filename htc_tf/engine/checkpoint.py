"""Checkpoints of a run: RUN/checkpoints. Saving is acknowledged only when the files are in place.

A checkpoint that does not hold every variable of the model is an error: TensorFlow alone would restore what it finds
and say nothing.
"""

import tensorflow as tf

from htc_tf.errors import UserError

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class Checkpoints:
    """Saves and restores a model, and in training its optimiser and step."""

    def __init__(self, run, model, optimizer=None, step=None, keep=3):
        tracked = {"model": model}
        self.training = optimizer is not None
        if self.training:
            tracked |= {"optimizer": optimizer, "step": step}
        self.checkpoint = tf.train.Checkpoint(**tracked)
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(run.checkpoints), max_to_keep=keep)

    def save(self, step):
        return self.manager.save(checkpoint_number=step)

    def restore_latest(self):
        """Restores the newest checkpoint, if there is one. Returns its path or None.

        A converted run has weights alone: training takes them, and its optimiser and step stay at their start.
        """
        path = self.manager.latest_checkpoint
        if path is None:
            return None
        try:
            weights_alone = not any(name.startswith("step/") for name, _ in tf.train.list_variables(path))
            checkpoint = tf.train.Checkpoint(model=self.checkpoint.model) if weights_alone else self.checkpoint
            # What stays unused is told here or is right; TensorFlow need not list it when the program ends.
            status = checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
            if self.training:
                # A smaller network would find all that it asks for, and its optimiser the moments of other weights.
                status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError, IndexError) as error:
            raise UserError(f"checkpoint {path} does not fit this configuration: {mismatches(path, self)}") from error
        return path


def mismatches(path, checkpoints):
    """One line that says which variables of the model the checkpoint lacks, has more, or holds in another shape."""
    try:
        stored = tf.train.list_variables(path)
    except (tf.errors.OpError, ValueError, IndexError) as error:
        return f"unreadable ({str(error).splitlines()[0]})"
    rest = [
        (tuple(shape), name) for name, shape in stored if name.startswith("model/") and "OPTIMIZER_SLOT" not in name
    ]
    missing = []
    for shape, name in sorted((tuple(v.shape), v.name) for v in checkpoints.checkpoint.model.variables):
        match = next((other for other in rest if other[0] == shape), None)
        if match is None:
            missing.append(f"{name} {list(shape)}")
        else:
            rest.remove(match)
    if missing:
        return f"it lacks {listed(missing)}"
    if rest:
        return f"it also has {listed([f'{name.removesuffix(SUFFIX)} {list(shape)}' for shape, name in rest])}"
    return "its parts are arranged otherwise, or its optimiser is another"


def listed(names, limit=8):
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
