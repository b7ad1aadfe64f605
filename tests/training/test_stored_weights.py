"""Weights in a run's checkpoint: averages, former names, and variables of several devices."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints, restore_weights
from htc_tf.data.datasets import load_info
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run
from tests import forks
from tests.training.adopting import NAMES, SMALL, categories, fill, start

ROOT = Path(__file__).resolve().parents[2]


def test_averages(tiny_model, tmp_path):
    """Averages are found by the variables' names, some of which the heads share; a frozen stage has no averages."""
    _, old = tiny_model(*SMALL, "ResNet.frozen_stages=1")
    fill(old.variables)
    averages = MovingAverages(old.trainable_variables, 0.9)
    fill(averages.averages, start=2**20)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, old, averages=averages).save(3)
    restore_weights(run, old)
    assert min(v.numpy().min() for v in old.trainable_variables) == 2**20
    _, model = tiny_model(*SMALL)  # its stem and first stage are trained
    mine = MovingAverages(model.trainable_variables, 0.9)
    start(model, tmp_path, run, NAMES, mine)
    for variable, other in zip(sorted_weights(model), sorted_weights(old), strict=True):
        np.testing.assert_array_equal(variable, other, err_msg=variable.name)
    for average, variable in zip(mine.averages, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(average, variable)


def sorted_weights(model):
    """The variables in an order that does not depend on which are trained."""
    return [v for _, v in sorted(enumerate(model.variables), key=lambda item: (item[1].name, item[0]))]


def test_former_attributes(trained, tiny_model, tmp_path, monkeypatch):
    """Runs of earlier versions have other names of attributes in their graphs."""
    _, old = trained
    mask_heads = [stage.mask_head for stage in old.stages]
    for head in mask_heads:
        head._track_trackable(head.flow_conv, "receive")
        head._delete_tracking("flow_conv")
    run = Run(tmp_path / "former")
    run.create("", categories(NAMES))
    Checkpoints(run, old).save(3)
    stored = {name for name, _ in tf.train.list_variables(str(run.checkpoints / "ckpt-3"))}
    assert any("/receive/" in name for name in stored) and not any("/flow_conv/" in name for name in stored)
    _, model = tiny_model(*SMALL)
    start(model, tmp_path, run, NAMES)
    np.testing.assert_array_equal(
        model.stages[1].mask_head.flow_conv.convolution.kernel, mask_heads[1].flow_conv.convolution.kernel
    )


def test_two_devices(trained, tiny_model, tiny_data, tmp_path):
    """A process with two logical devices takes the weights; its own checkpoint, of mirrored variables, is read too."""
    run, old = trained
    Run(run.folder).create("", categories(load_info(tiny_data.records).class_names))
    flags = ["--gin_file", "tests/tiny.gin", "--devices", "CPU:0", "CPU:1", "--init_from", run.folder]
    for param in (*SMALL, "STEPS=0", "Experiment.ema_decay=0.9"):
        flags += ["--gin_param", param]
    flags += ["--train_records", tiny_data.records, "--workdir", tmp_path / "mirrored"]
    result = forks.run("-m", "htc_tf.train", *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"starting from {run.checkpoints / 'ckpt-3'}; nothing is frozen" in result.stdout
    _, model = tiny_model(*SMALL)
    start(model, tmp_path, Run(tmp_path / "mirrored"), load_info(tiny_data.records).class_names)
    for mine, theirs in zip(model.variables, old.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.name)
