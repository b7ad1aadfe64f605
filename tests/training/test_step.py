"""The training step, on a network of two layers: any split of a batch is equal, and a bad step changes nothing."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.training.gradients import make_gradients
from htc_tf.training.optim import SGD
from tests import forks

HERE = Path(__file__).resolve().parent
TOY = runpy.run_path(str(HERE / "toy.py"))
start, make_batches, spoil, CASES = (TOY[name] for name in ("start", "make_batches", "spoil", "CASES"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{"case/step/name": array}, written by the toy's own process on 1, 2 and 4 logical devices."""
    path = tmp_path_factory.mktemp("toy") / "out.npz"
    main = "import runpy, sys; runpy.run_path(sys.argv[1])['main'](sys.argv[2])"
    done = forks.run("-c", main, HERE / "toy.py", path)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(path))


@pytest.mark.parametrize("case", CASES)
def test_any_split_equals_the_whole_batch(trained, case):
    whole = "synchronized" if case.startswith("synchronized") else "whole"
    wanted = {name.removeprefix(f"{whole}/"): value for name, value in trained.items() if name.startswith(f"{whole}/")}
    got = {name.removeprefix(f"{case}/"): value for name, value in trained.items() if name.startswith(f"{case}/")}
    assert got.keys() == wanted.keys() and any("velocity" in name for name in got)
    for name, value in wanted.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_the_loss_decreases(trained):
    assert trained["whole/2/total"] < 0.95 * trained["whole/0/total"]
    assert (trained["synchronized/2/total"] != trained["whole/2/total"]).all()


def state(training):
    """Returns copies of all variables that a step may change, except the step itself."""
    parts = (training.model, training.optimizer, training.averages)
    variables = [v for part in parts for v in (part.variables() if callable(part.variables) else part.variables)]
    return [v.numpy().copy() for v in variables]


def same(before, after):
    return [(a == b).all() for a, b in zip(before, after, strict=True)]


@pytest.fixture(scope="module")
def normed():
    """With trained batch norm and averages."""
    return start(norm="batch", decay=0.9)


def test_a_step_that_is_not_finite_changes_no_bit(normed):
    good, bad, last = make_batches(3)
    assert normed.train_step(good)["finite"]
    before, step = state(normed), normed.step.numpy()
    numbers = normed.train_step(spoil(bad))
    assert not numbers["finite"] and np.isnan(numbers["total"])
    assert all(same(before, state(normed))) and len(before) > 12
    assert normed.step.numpy() == step + 1 and float(numbers["learning_rate"]) > 0
    assert normed.train_step(last)["finite"] and not any(same(before, state(normed)))


def test_batch_norm_updates_its_statistics_once_per_micro_batch(normed):
    (batch,) = make_batches(1)
    padded = tf.pad(batch.images / 255, [[0, 0], [1, 1], [1, 1], [0, 0]])
    for training, parts in ((normed, 1), (start(norm="batch", accumulate=2), 2)):
        layer = training.model.features
        moved = layer.norm.moving_mean.numpy()
        features = tf.nn.conv2d(padded, layer.convolution.kernel, 2, "VALID")
        for part in tf.split(features, parts):
            moved = 0.9 * moved + 0.1 * tf.reduce_mean(part, [0, 1, 2])
        training.train_step(batch)
        np.testing.assert_allclose(layer.norm.moving_mean.numpy(), moved, rtol=1e-4, atol=1e-6)


def test_clipping_bounds_the_update_but_not_the_number():
    (batch,) = make_batches(1)
    free, bounded = (start(clip_norm=bound, recipe=SGD(TOY["SGD_RECIPE"].schedule, decay=0)) for bound in (None, 0.5))
    norms = [float(training.train_step(batch)["gradient_norm"]) for training in (free, bounded)]
    assert norms[0] == norms[1] > 1
    updates = [float(tf.linalg.global_norm(training.optimizer.velocities)) for training in (free, bounded)]
    np.testing.assert_allclose(updates, [norms[0], 0.5], rtol=1e-4)


def test_float16_halves_its_scale_if_gradients_overflow(tmp_path):
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        training = start(decay=0.9)
        (batch,) = make_batches(1)
        numbers = training.train_step(batch)
        assert numbers["finite"] and numbers["loss_scale"] == 2.0**15
        assert float(numbers["gradient_norm"]) == pytest.approx(2.50, rel=0.02)  # without the scale
        scale, good = training.optimizer.loss_scale.value, training.optimizer.loss_scale.good_steps
        scale.assign(2.0**40)
        before = [v.numpy() for v in [*training.model.variables, *training.optimizer.velocities]]
        numbers = training.train_step(batch)
        assert numbers["finite"] and float(numbers["gradient_norm"]) == 0 and good.numpy() == 0
        assert (
            scale.numpy() == 2.0**39 and training.averages.updates.numpy() == training.optimizer.iterations.numpy() == 1
        )
        assert all(same(before, [v.numpy() for v in [*training.model.variables, *training.optimizer.velocities]]))
        # No scale helps against a loss that is not finite itself.
        assert not training.train_step(spoil(batch, float("inf")))["finite"]
        assert scale.numpy() == 2.0**38
        scale.assign(1.5)
        good.assign(1999)
        assert training.train_step(batch)["finite"] and scale.numpy() == 3.0 and good.numpy() == 0
        path = tf.train.Checkpoint(optimizer=training.optimizer).save(str(tmp_path / "ckpt"))
        stored = [name for name, _ in tf.train.list_variables(path) if "loss_scale" in name]
        assert len(stored) == 2
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_float32_has_no_loss_scale(normed):
    assert normed.optimizer.loss_scale is None and "loss_scale" not in normed.train_step(next(make_batches(1)))


def test_a_loop_equals_its_steps():
    batches = list(make_batches(5))
    single, looped = start(), start()
    for batch in batches:
        numbers = single.train_step(batch)
    iterator = TOY["iterate"](looped, batches)
    looped.train_loop(iterator, tf.constant(2))
    assert looped.step.numpy() == 2
    last = looped.train_loop(iterator, tf.constant(3))
    assert looped.step.numpy() == 5 and {k: v.numpy() for k, v in last.items()} == {
        k: v.numpy() for k, v in numbers.items()
    }
    for a, b in zip(single.model.variables, looped.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loop_takes_images_of_several_shapes_and_ends_at_a_bad_step():
    batches = list(make_batches(2))
    tall = [b._replace(images=tf.concat([b.images, b.images], axis=1)) for b in batches]
    training = start()
    iterator = TOY["iterate"](training, [batches[0], tall[0], tall[1], spoil(batches[0]), batches[1]])
    numbers = training.train_loop(iterator, tf.constant(5))
    assert not numbers["finite"] and training.step.numpy() == 4 and training.optimizer.iterations.numpy() == 3
    assert training.train_loop(iterator, tf.constant(1))["finite"] and training.step.numpy() == 5


def test_impossible_combinations_are_refused():
    with pytest.raises(UserError, match=r"8 images .* 3 micro-batches"):
        start(accumulate=3).train_step(next(make_batches(1)))
    training = start(norm="sync_batch")
    for xla, accumulate in ((True, 1), (False, 2)):
        experiment = type("Experiment", (), {"xla": xla, "accumulate": accumulate})
        with pytest.raises(UserError, match="sync_batch"):
            make_gradients(experiment, training.model, replicas=2)
