"""Checkpoints that were saved before attributes of the heads were renamed are restored completely."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.checkpoint import FORMER_ATTRIBUTES, Checkpoints, former_attributes, optimizer_variables, restore_weights
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("NUM_STAGES=2")[1]


@pytest.fixture(params=[tf.keras.optimizers.Adam, tf.keras.optimizers.legacy.Adam])
def training(request, model):
    """(optimizer, averages, step) of the model, with all slots."""
    optimizer = request.param(0.1)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in model.trainable_variables])
    return optimizer, MovingAverages(model.trainable_variables, 0.9), tf.Variable(0, dtype=tf.int64)


def draw(variables, seed):
    """Sets each variable to random values of its own and returns these."""
    generator = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(tf.cast(tf.constant(generator.uniform(1, 1000, variable.shape)), variable.dtype))
    return [variable.numpy() for variable in variables]


def track(model, former):
    """Makes TensorFlow save renamed attributes under their former names alone, or under the new ones alone."""
    for layer in model.submodules:
        for old, new in FORMER_ATTRIBUTES.items():
            if hasattr(layer, new):
                layer._track_trackable(getattr(layer, new), old if former else new, overwrite=True)
                layer._delete_tracking(new if former else old)


def attributes(path):
    """Returns the attributes in the names of a checkpoint's variables."""
    return {attribute for name, _ in tf.train.list_variables(path) for attribute in name.split("/")}


def test_all_variables_slots_and_averages_come_back(model, training, tmp_path):
    optimizer, averages, step = training
    checkpoints = Checkpoints(Run(tmp_path), model, optimizer, step, averages=averages)
    variables = [*model.variables, *optimizer_variables(optimizer), *averages.averages, averages.updates, step]
    saved = draw(variables, seed=1)
    track(model, former=True)
    try:
        checkpoints.save(7)
    finally:
        track(model, former=False)
    assert attributes(checkpoints.latest) >= FORMER_ATTRIBUTES.keys()
    assert not attributes(checkpoints.latest) & set(FORMER_ATTRIBUTES.values())

    draw(variables, seed=2)
    checkpoints = Checkpoints(Run(tmp_path), model, optimizer, step, averages=averages)
    assert checkpoints.restore_latest().endswith("ckpt-7")  # TensorFlow asserts that all of the checkpoint is used
    for variable, expected in zip(variables, saved, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.name)
    # The next checkpoint has the new names alone.
    assert attributes(checkpoints.save(8)) & {*FORMER_ATTRIBUTES, *FORMER_ATTRIBUTES.values()} == set(
        FORMER_ATTRIBUTES.values()
    )

    draw(variables, seed=3)
    restore_weights(Run(tmp_path), model)  # the averages, without optimizer and step
    for variable, expected in zip(model.trainable_variables, saved[-2 - len(averages.averages) : -2], strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.name)


def test_new_checkpoints_need_no_former_names():
    with former_attributes(None, [("model/stages/0/mask_head/convs/0/convolution/kernel", [3, 3, 8, 8])]):
        pass  # the model is not searched
