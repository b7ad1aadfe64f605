"""Checkpoints of a run: saving and restoring model, optimizer, step and averages in RUN/checkpoints.

`checkpoint_files` knows which files belong to a checkpoint and verifies them. Each checkpoint has a manifest,
ckpt-N.json, with the size and SHA-256 of its files and the fingerprints of configuration and data.

A checkpoint that lacks a variable of the model is an error: TensorFlow alone would restore the others silently.
"""

import contextlib
import hashlib
import sys

import tensorflow as tf

from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.errors import UserError, listed
from htc_tf.moving_averages import MovingAverages

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Layers' attributes by the names that older checkpoints have: TensorFlow finds variables by names of attributes.
FORMER_ATTRIBUTES = {"receive": "flow_conv", "convolutions": "convs"}
# Beginnings of TensorFlow's log lines about a failed restore; one per variable, when the objects are deleted.
UNRESTORED = (
    "Detecting that an object or model or tf.train.Checkpoint is being deleted",
    "Value in checkpoint could not be found in the restored object",
    "An attribute in the restored object could not be found in the checkpoint",
)


class Checkpoints:
    """Saves and restores a model, and in training its optimizer, step and averages."""

    def __init__(self, run, model, optimizer=None, step=None, keep=3, averages=None):
        if averages is not None:
            # Without the weights that it averages: TensorFlow would name those by the averages, not by the model.
            averages = tf.train.Checkpoint(weights=averages.averages, updates=averages.updates)
        self.parts = {"model": model, "averages": averages, "optimizer": optimizer, "step": step}
        self.parts = {name: part for name, part in self.parts.items() if part is not None}
        self.checkpoint = tf.train.Checkpoint(**self.parts)
        self.folder, self.keep = run.checkpoints, keep
        self.files = CheckpointFiles(run.checkpoints)
        self.stored = set()  # names of the parts that the restored checkpoint has
        self.held = None  # number of the last saved or restored checkpoint

    @property
    def latest(self):
        """Path of the newest intact checkpoint, or None."""
        number, _ = self.files.newest_intact()
        return None if number is None else str(self.files.prefix(number))

    @property
    def megabytes(self):
        """Size of a checkpoint on the disk."""
        optimizer, averages = self.parts.get("optimizer"), self.parts.get("averages")
        slots = () if optimizer is None else optimizer_variables(optimizer)
        return count_bytes([*self.checkpoint.model.variables, *slots, *getattr(averages, "weights", ())]) / 1e6

    def save(self, step, **manifest):
        """Saves a checkpoint, and returns its path once it would survive a loss of power.

        It does nothing if the checkpoint of this step was just saved or restored: overwriting an acknowledged
        checkpoint would not be atomic.

        Args:
            step: int, number of the checkpoint.
            **manifest: Further entries of its manifest.
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
        """Returns the manifest of the newest intact checkpoint; empty if there is none."""
        number, _ = self.files.newest_intact()
        return {} if number is None else self.files.manifest(number)

    def sweep(self):
        """Removes unfinished checkpoints, left by a process that was killed or had no space."""
        self.files.sweep()

    def find_latest(self):
        """Returns the number of the newest intact checkpoint, with a note if later ones are not, or None without any.

        Raises:
            UserError: There are checkpoints, but none is intact.
        """
        number, problems = self.files.newest_intact()
        if number is None:
            if problems:
                raise UserError(
                    f"{'; '.join(problems)}. No intact checkpoint is in {self.folder}: restore a copy of the file, or "
                    "move that folder away to start from scratch"
                )
            return None
        if problems:
            path = self.files.prefix(number)
            print(f"note: {'; '.join(problems)}: using {path}, the newest intact one", file=sys.stderr)
        return number

    def restore_latest(self):
        """Restores the newest intact checkpoint, if there is one, and returns its path or None.

        A converted run has weights alone, and one that was trained without averages lacks those: missing parts keep
        their values.

        Raises:
            UserError: No checkpoint is intact, or the newest one does not fit the model.
        """
        number = self.find_latest()
        if number is None:
            return None
        path = str(self.files.prefix(number))
        self._restore(path)
        self.held = number
        return path

    def _restore(self, path):
        stored = tf.train.list_variables(path)
        self.stored = {name.partition("/")[0] for name, _ in stored}
        if "step" in self.parts and "averages" in self.stored - self.parts.keys():
            raise UserError(f"checkpoint {path} has averages of the weights: set its run's Experiment.ema_decay")
        refusal = f"checkpoint {path} does not fit this configuration"
        missing, rest = compare(stored, self.checkpoint.model.variables)
        if missing:
            raise UserError(f"{refusal}: it lacks {listed(missing)}")
        parts = {name: part for name, part in self.parts.items() if name in {"model", *self.stored}}
        try:
            with former_attributes(self.checkpoint.model, stored):
                # expect_partial: unused values are named below or are right; TensorFlow need not log them at the end.
                status = tf.train.Checkpoint(**parts).restore(path).expect_partial().assert_existing_objects_matched()
            if "step" in self.parts:
                # A smaller network would find all of its variables, and its optimizer the slots of other weights.
                status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            tf.get_logger().addFilter(lambda record: not str(record.msg).startswith(UNRESTORED))
            what = (
                f"it also has {listed(rest)}"
                if rest
                else "its parts are arranged otherwise, its optimizer is another, or only one of them has PRECISION = "
                "'float16': train with the run's own settings, or name another --workdir and this run as --init_from"
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
    # Not setattr and delattr: Keras keeps tracking a deleted attribute while the layer has it under another name.
    for layer, former in renamed:
        layer._track_trackable(getattr(layer, FORMER_ATTRIBUTES[former]), former)
    try:
        yield
    finally:
        for layer, former in renamed:
            layer._delete_tracking(former)


def restore_weights(run, model, averaged=True):
    """Restores the weights of a run's newest checkpoint, without optimizer and step.

    Args:
        run: Run.
        model: Keras layer with variables.
        averaged: bool, True to use the moving averages if the checkpoint has any.
    Returns:
        The checkpoint's path, or None if there is none.
    Raises:
        UserError: It does not fit the model.
    """
    averages = MovingAverages(model.trainable_variables, decay=0.0) if averaged else None
    checkpoints = Checkpoints(run, model, averages=averages)
    path = checkpoints.restore_latest()
    if averaged and "averages" in checkpoints.stored:
        averages.assign_to(model.trainable_variables)
    return path


def optimizer_variables(optimizer):
    """Returns an optimizer's variables: an attribute of current Keras optimizers, a method of legacy ones."""
    return optimizer.variables() if callable(optimizer.variables) else optimizer.variables


def count_bytes(variables):
    """Returns the bytes of variables or tensors of static shape."""
    return sum(v.dtype.size * v.shape.num_elements() for v in variables)


def fingerprint(text):
    """Returns the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(info):
    """Returns the SHA-256 of a data set: its shards, in their order, and its classes."""
    return fingerprint("\n".join([*(shard.sha256 for shard in info.shards), *map(str, info.categories)]))


def compare(stored, variables):
    """Compares a checkpoint with a model by shapes, since TensorFlow's names in it are paths through the objects.

    Args:
        stored: (name, shape) pairs of the checkpoint.
        variables: Variables of the model.
    Returns:
        (missing, rest): lists of str, the model's variables that the checkpoint lacks, and the checkpoint's values that
        the model lacks.
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
