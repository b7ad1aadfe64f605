"""Checkpoints: restoring models and trainings, and errors that name variables that do not fit."""

import gc

import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints, restore_weights
from htc_tf.errors import UserError
from htc_tf.run import Run


def make_model(sizes=(3, 2), value=0.0):
    model = tf.keras.Sequential([tf.keras.layers.Dense(n, name=f"layer{i}") for i, n in enumerate(sizes)])
    model.build([None, 4])
    for variable in model.variables:
        variable.assign(tf.fill(variable.shape, value))
    return model


def make_training(run, value=0.0, sizes=(3, 2), keep=3, recipe=tf.keras.optimizers.Adam):
    model, step = make_model(sizes, value), tf.Variable(0, dtype=tf.int64)
    optimizer = recipe(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer, step, Checkpoints(run, model, optimizer, step, keep)


@pytest.fixture
def run(tmp_path):
    """A run saved after seven steps: weights near 1, momentum not zero."""
    run = Run(tmp_path)
    model, optimizer, step, checkpoints = make_training(run, value=1.0)
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in model.trainable_variables])
    step.assign(7)
    checkpoints.save(7)
    return run


def test_an_empty_folder(tmp_path):
    assert Checkpoints(Run(tmp_path), make_model()).restore_latest() is None


def test_training_resumes(run):
    model, optimizer, step, checkpoints = make_training(run)
    assert checkpoints.restore_latest().endswith("ckpt-7")
    assert (int(step), int(optimizer.iterations)) == (7, 1)
    assert all(abs(v.numpy() - 0.9).max() < 1e-4 for v in model.variables)
    assert all((v.numpy() != 0).all() for v in optimizer.variables if "m/" in v.name)


def test_other_commands_restore_the_model_only(run):
    model = make_model()
    Checkpoints(run, model).restore_latest()
    assert all(abs(v.numpy() - 0.9).max() < 1e-4 for v in model.variables)


def test_training_starts_from_weights_only(tmp_path):
    """A checkpoint as a conversion saves it: without step and optimizer, so any optimizer fits."""
    Checkpoints(Run(tmp_path), make_model(value=3.0)).save(0)
    model, optimizer, step, checkpoints = make_training(Run(tmp_path))
    assert checkpoints.restore_latest().endswith("ckpt-0")
    assert (int(step), int(optimizer.iterations)) == (0, 0)
    assert all((v.numpy() == 3).all() for v in model.variables)
    *_, checkpoints = make_training(Run(tmp_path), sizes=(3,))
    with pytest.raises(UserError, match="it also has"):
        checkpoints.restore_latest()


def test_only_the_newest_are_kept(tmp_path):
    *_, checkpoints = make_training(Run(tmp_path), keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step)
    assert sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-2", "ckpt-3"]


def refused(checkpoints):
    with pytest.raises(UserError, match="ckpt-7") as error:
        checkpoints.restore_latest()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_misshaped_variables_are_named(run):
    message = refused(Checkpoints(run, make_model((3, 2, 5))))
    assert "layer2/kernel:0 [2, 5]" in message and "layer2/bias:0 [5]" in message and "layer0" not in message
    message = refused(Checkpoints(run, make_model((3, 6))))
    assert "layer1/kernel:0 [3, 6]" in message and "layer0" not in message


def test_training_does_not_resume_with_another_network(run):
    *_, checkpoints = make_training(run, sizes=(3,))
    message = refused(checkpoints)
    assert "it also has" in message and "kernel [3, 2]" in message and "bias [2]" in message


def test_training_does_not_resume_with_another_optimizer(run):
    *_, checkpoints = make_training(run, recipe=lambda rate: tf.keras.optimizers.SGD(rate, momentum=0.9))
    assert "optimizer is another" in refused(checkpoints)


def swap_layers():
    """Returns a model with the checkpoint's shapes in swapped layers."""
    swapped = tf.Module()
    for number, layer in enumerate(make_model().layers[::-1]):
        setattr(swapped, f"layer_with_weights-{number}", layer)
    return swapped


@pytest.mark.parametrize("build", [lambda: make_model((3, 6)), lambda: make_model((3, 2, 5)), swap_layers])
@pytest.mark.parametrize("restore", [lambda run, model: Checkpoints(run, model).restore_latest(), restore_weights])
def test_tensorflow_logs_nothing_besides_the_error(run, build, restore, caplog):
    """By default it logs each variable that was not restored when the objects are deleted."""
    tf.get_logger().propagate, before = True, tf.get_logger().propagate
    try:
        with pytest.raises(UserError, match="does not fit this configuration: it"):
            restore(run, build())
        gc.collect()
    finally:
        tf.get_logger().propagate = before
    assert not caplog.records


@pytest.mark.parametrize("name", ["ckpt-7.index", "ckpt-7.data-00000-of-00001"])
def test_damaged_files_are_named(run, name):
    path = run.checkpoints / name
    path.write_bytes(path.read_bytes()[:20])
    refused(Checkpoints(run, make_model()))
    path.unlink()
    with pytest.raises(UserError, match="ckpt-7"):
        Checkpoints(run, make_model()).restore_latest()
