"""Checkpoints of a run: RUN/checkpoints. Saving is acknowledged only when the files are on the disk.

Which files those are, and whether they are whole, is in `checkpoint_files`. Beside each checkpoint lies a
manifest, ckpt-N.json: what it was made of, and the size and SHA-256 of its files.

A checkpoint that does not hold every variable of the model is an error: TensorFlow alone would restore what it finds
and say nothing.
"""

import contextlib
import hashlib
import sys

import tensorflow as tf

from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.errors import UserError
from htc_tf.moving_averages import MovingAverages

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Layers' attributes by the names that older checkpoints have: TensorFlow finds variables by names of attributes.
FORMER_ATTRIBUTES = {"receive": "flow_conv", "convolutions": "convs"}
# How TensorFlow's lines about a restore that failed begin. It logs them when the objects are deleted, one a variable.
UNRESTORED = (
    "Detecting that an object or model or tf.train.Checkpoint is being deleted",
    "Value in checkpoint could not be found in the restored object",
    "An attribute in the restored object could not be found in the checkpoint",
)


class Checkpoints:
    """Saves and restores a model, and in training its optimiser, step and averages."""

    def __init__(self, run, model, optimizer=None, step=None, keep=3, averages=None):
        if averages is not None:
            # Not the weights that it averages: TensorFlow would file those under the averages, and not under the model.
            averages = tf.train.Checkpoint(weights=averages.averages, updates=averages.updates)
        self.parts = {"model": model, "averages": averages, "optimizer": optimizer, "step": step}
        self.parts = {name: part for name, part in self.parts.items() if part is not None}
        self.checkpoint = tf.train.Checkpoint(**self.parts)
        self.folder, self.keep = run.checkpoints, keep
        self.files = CheckpointFiles(run.checkpoints)
        self.stored = set()  # which parts the restored checkpoint has
        self.held = None  # number of the checkpoint that was last saved or restored

    @property
    def latest(self):
        """The path of the newest checkpoint that is whole, or None."""
        number, _ = self.files.newest_whole()
        return None if number is None else str(self.files.prefix(number))

    @property
    def megabytes(self):
        """What a checkpoint needs."""
        optimizer, averages = self.parts.get("optimizer"), self.parts.get("averages")
        slots = () if optimizer is None else optimizer_variables(optimizer)
        return count_bytes([*self.checkpoint.model.variables, *slots, *getattr(averages, "weights", ())]) / 1e6

    def save(self, step, **manifest):
        """Returns the path, once the checkpoint would survive a loss of power. The manifest gets what is given by name.

        The same training is not saved twice at one step: to write over an acknowledged checkpoint would not be atomic.
        """
        path = str(self.files.prefix(step))
        if self.held != step:
            self.files.begin(step, manifest)
            self.checkpoint.save_counter.assign_add(1)
            self.checkpoint.write(path)
            self.files.acknowledge(step)
            self.held = step
            self.files.rotate(step, self.keep)
        return path

    def read_manifest(self):
        """What `save` was given for the newest checkpoint that is whole; empty if there is none."""
        number, _ = self.files.newest_whole()
        return {} if number is None else self.files.manifest(number)

    def sweep(self):
        """Removes what a process that was killed, or had no space left, did not finish."""
        self.files.sweep()

    def restore_latest(self):
        """Restores the newest checkpoint that is whole, if there is one. Returns its path or None.

        A converted run has weights alone, and one that was trained without averages has none: what it lacks of those
        stays as it is.

        Raises:
            UserError: checkpoints are there and none is whole, or the newest does not fit the model.
        """
        number, problems = self.files.newest_whole()
        if number is None:
            if problems:
                raise UserError(
                    f"{'; '.join(problems)}. No whole checkpoint is in {self.folder}: put back a copy of the file, or "
                    "move that folder away to start anew"
                )
            return None
        path = str(self.files.prefix(number))
        if problems:
            print(f"note: {'; '.join(problems)}: taking {path}, the newest that is whole", file=sys.stderr)
        self._restore(path)
        self.held = number
        return path

    def _restore(self, path):
        stored = tf.train.list_variables(path)
        self.stored = {name.partition("/")[0] for name, _ in stored}
        if "step" in self.parts and "averages" in self.stored - self.parts.keys():
            raise UserError(f"checkpoint {path} has averages of the weights: set Experiment.ema_decay as it was")
        refusal = f"checkpoint {path} does not fit this configuration"
        missing, rest = compare(stored, self.checkpoint.model.variables)
        if missing:
            raise UserError(f"{refusal}: it lacks {listed(missing)}")
        parts = {name: part for name, part in self.parts.items() if name in {"model", *self.stored}}
        try:
            with former_attributes(self.checkpoint.model, stored):
                # What stays unused is told here or is right; TensorFlow need not list it when the program ends.
                status = tf.train.Checkpoint(**parts).restore(path).expect_partial().assert_existing_objects_matched()
            if "step" in self.parts:
                # A smaller network would find all that it asks for, and its optimiser the moments of other weights.
                status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            tf.get_logger().addFilter(lambda record: not str(record.msg).startswith(UNRESTORED))
            what = (
                f"it also has {listed(rest)}"
                if rest
                else "its parts are arranged otherwise, or its optimiser is another"
            )
            raise UserError(f"{refusal}: {what}") from error


@contextlib.contextmanager
def former_attributes(model, stored):
    """Lets TensorFlow find renamed attributes of layers by their former names too, if the checkpoint has these.

    Args:
        model: A Keras layer.
        stored: (name, shape) pairs of the checkpoint.
    """
    found = {attribute for name, _ in stored for attribute in name.split("/")} & FORMER_ATTRIBUTES.keys()
    renamed = [
        (layer, former)
        for former in found
        for layer in model.submodules
        if hasattr(layer, FORMER_ATTRIBUTES[former]) and not hasattr(layer, former)
    ]
    # Not setattr and delattr: Keras keeps tracking what is deleted while the layer has it under another name.
    for layer, former in renamed:
        layer._track_trackable(getattr(layer, FORMER_ATTRIBUTES[former]), former)
    try:
        yield
    finally:
        for layer, former in renamed:
            layer._delete_tracking(former)


def restore_weights(run, model, averaged=True):
    """The weights of a run's newest checkpoint alone, for all but the training that it belongs to.

    Args:
        run: a Run.
        model: with variables.
        averaged: take the moving averages where the checkpoint has some.
    Returns:
        The checkpoint's path, or None if there is none.
    Raises:
        UserError: it does not fit the model.
    """
    averages = MovingAverages(model.trainable_variables, decay=0.0) if averaged else None
    checkpoints = Checkpoints(run, model, averages=averages)
    path = checkpoints.restore_latest()
    if averaged and "averages" in checkpoints.stored:
        averages.assign_to(model.trainable_variables)
    return path


def optimizer_variables(optimizer):
    """Keras' newer optimisers list them, its older ones (tensorflow-addons') give them when called."""
    return optimizer.variables() if callable(optimizer.variables) else optimizer.variables


def count_bytes(variables):
    return sum(v.dtype.size * v.shape.num_elements() for v in variables)


def fingerprint(text):
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(info):
    """Of a data set's shards, in their order, and its classes."""
    return fingerprint("\n".join([*(shard.sha256 for shard in info.shards), *map(str, info.categories)]))


def compare(stored, variables):
    """By shapes, since names differ: TensorFlow's own are paths through the objects.

    Args:
        stored: (name, shape) pairs of a checkpoint.
        variables: of the model.
    Returns:
        (the model's variables that the checkpoint lacks, what it has for a model besides), as text.
    """
    rest = [
        (tuple(shape), name) for name, shape in stored if name.startswith("model/") and "OPTIMIZER_SLOT" not in name
    ]
    missing = []
    for shape, name in sorted((tuple(v.shape), v.name) for v in variables):
        match = next((other for other in rest if other[0] == shape), None)
        if match is None:
            missing.append(f"{name} {list(shape)}")
        else:
            rest.remove(match)
    return missing, [f"{name.removesuffix(SUFFIX)} {list(shape)}" for shape, name in rest]


def listed(names, limit=8):
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
