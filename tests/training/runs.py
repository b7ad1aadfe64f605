"""Runs that tests train: start one, copy it as if it had been killed, read what it holds."""

import json
import shutil
from pathlib import Path

import tensorflow as tf

from htc_tf import config
from htc_tf.run import Run
from htc_tf.training.trainer import train
from tests import toy_detector

TINY = str(Path(__file__).resolve().parents[1] / "tiny.gin")


def lines(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def steps(run):
    return [record for record in lines(run) if "total" in record]


def checkpoints(run):
    return sorted(path.stem for path in run.checkpoints.glob("*.index"))


def copy(tiny_run, folder, newest):
    """Returns a copy of the run as if killed after the step `newest`."""
    run = Run(shutil.copytree(tiny_run.folder, folder))
    tf.compat.v1.train.update_checkpoint_state(str(run.checkpoints), str(run.checkpoints / f"ckpt-{newest}"))
    for path in run.checkpoints.glob("ckpt-*"):
        if path.stem > f"ckpt-{newest}":
            path.unlink()
    return run


def start(run, records, *params, **options):
    experiment, resolved = config.load([TINY], params)
    return train(experiment, resolved, records, None, run, **options)


def start_toy(run, records, *params, **options):
    """Trains the toy in the detector's place: for runs whose network does not matter."""
    return toy_detector.train(TINY, params, records, None, run, **options)


def spoiled(objective, name, at):
    """Returns an objective with a loss that is NaN from call number `at` on."""
    calls = []

    def call(*arguments):
        calls.append(None)
        named = objective(*arguments)
        if len(calls) >= at:
            named[name] = named[name]._replace(total=named[name].total * float("nan"))
        return named

    return call
