"""Checkpoints of a run: RUN/checkpoints. Saving is acknowledged only when the files are in place.

TensorFlow writes a checkpoint aside, renames it, and then renames the file `checkpoint` that lists it, so that a killed
process never leaves a listed half. Beside each lies a manifest, ckpt-N.json: what the checkpoint was made of.

A checkpoint that does not hold every variable of the model is an error: TensorFlow alone would restore what it finds
and say nothing.
"""

import contextlib
import hashlib
import json
import re
import shutil
from pathlib import Path

import tensorflow as tf

from htc_tf.engine.training.averages import MovingAverages
from htc_tf.errors import UserError
from htc_tf.run import write_whole

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class Checkpoints:
    """Saves and restores a model, and in training its optimiser, step and averages."""

    def __init__(self, run, model, optimizer=None, step=None, keep=3, averages=None):
        if averages is not None:
            # Not the weights that it averages: TensorFlow would file those under the averages, and not under the model.
            averages = tf.train.Checkpoint(weights=averages.averages, updates=averages.updates)
        self.parts = {"model": model, "averages": averages, "optimizer": optimizer, "step": step}
        self.parts = {name: part for name, part in self.parts.items() if part is not None}
        self.checkpoint = tf.train.Checkpoint(**self.parts)
        self.folder = run.checkpoints
        self.stored = set()  # which parts the restored checkpoint has
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(run.checkpoints), max_to_keep=keep)

    @property
    def latest(self):
        """The newest checkpoint's path, or None."""
        return self.manager.latest_checkpoint

    @property
    def megabytes(self):
        """What a checkpoint needs."""
        optimizer, averages = self.parts.get("optimizer"), self.parts.get("averages")
        slots = () if optimizer is None else optimizer_variables(optimizer)
        return count_bytes([*self.checkpoint.model.variables, *slots, *getattr(averages, "weights", ())]) / 1e6

    def save(self, step, **manifest):
        """Returns the path. What is given by name goes to the manifest, which is there before the checkpoint is.

        The newest is not saved twice: to write over a listed checkpoint would not be atomic.
        """
        if self.latest is not None and self.latest.endswith(f"ckpt-{step}"):
            return self.latest
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"ckpt-{step}.json", json.dumps({"step": step, **manifest}, indent=1) + "\n")
        path = self.manager.save(checkpoint_number=step)
        for left in self.folder.glob("ckpt-*.json"):
            if not left.with_suffix(".index").exists():
                left.unlink()
        return path

    def read_manifest(self):
        """What `save` was given for the newest checkpoint; empty if there is none."""
        if self.latest is not None:
            with contextlib.suppress(OSError, ValueError):
                return json.loads(Path(f"{self.latest}.json").read_text())
        return {}

    def sweep(self):
        """Removes what a process that was killed, or had no space left, leaves: halves, and what is not listed yet."""
        newest = -1 if self.latest is None else int(self.latest.rpartition("-")[2])
        for path in self.folder.glob("*"):
            number = re.match(r"ckpt-(\d+)(\.|_temp)", path.name)
            if path.is_dir() and "_temp" in path.name:
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".aside" or (number and int(number[1]) > newest):
                path.unlink(missing_ok=True)

    def restore_latest(self):
        """Restores the newest checkpoint, if there is one. Returns its path or None.

        A converted run has weights alone, and one that was trained without averages has none: what it lacks of those
        stays as it is.
        """
        path = self.latest
        if path is None:
            return None
        try:
            self.stored = {name.partition("/")[0] for name, _ in tf.train.list_variables(path)}
            if "step" in self.parts and "averages" in self.stored - self.parts.keys():
                raise UserError(f"checkpoint {path} has averages of the weights: set Experiment.ema_decay as it was")
            parts = {name: part for name, part in self.parts.items() if name in {"model", *self.stored}}
            # What stays unused is told here or is right; TensorFlow need not list it when the program ends.
            status = tf.train.Checkpoint(**parts).restore(path).expect_partial().assert_existing_objects_matched()
            if "step" in self.parts:
                # A smaller network would find all that it asks for, and its optimiser the moments of other weights.
                status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError, IndexError) as error:
            raise UserError(f"checkpoint {path} does not fit this configuration: {mismatches(path, self)}") from error
        return path


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
