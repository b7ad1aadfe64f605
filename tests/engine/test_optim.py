"""Optimisers and schedules: golden rates, and steps that NumPy repeats."""

import math

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.engine.optim import SGD, AdamW, CosineSchedule, StepSchedule

PAPER = {"base": 0.02, "batch_size": 16, "steps": 88716}


def rates(schedule, steps):
    """The rates of the first, second ... step, counted from 1."""
    return [float(schedule(tf.constant(step - 1, tf.int64))) for step in steps]


def test_warmup_is_mmdetections():
    schedule = StepSchedule(**PAPER, warmup_steps=500, warmup_factor=0.001)
    steps = [1, 2, 3, 250, 499, 500, 501, 59000]
    wanted = [0.02 * min(0.001 + 0.999 * (t - 1) / 499, 1.0) for t in steps]
    np.testing.assert_allclose(rates(schedule, steps), wanted, rtol=1e-6)


def test_the_rate_falls_after_8_and_11_of_12_epochs_of_7393_steps():
    schedule = StepSchedule(**PAPER)
    steps = [8 * 7393, 8 * 7393 + 1, 11 * 7393, 11 * 7393 + 1, 88716]
    np.testing.assert_allclose(rates(schedule, steps), [0.02, 0.002, 0.002, 0.0002, 0.0002], rtol=1e-6)
    longer = StepSchedule(**PAPER | {"steps": 147860}, milestones=(0.8, 0.95))
    steps = [16 * 7393, 16 * 7393 + 1, 19 * 7393, 19 * 7393 + 1]
    np.testing.assert_allclose(rates(longer, steps), [0.02, 0.002, 0.002, 0.0002], rtol=1e-6)


def test_the_rate_scales_with_the_batch():
    for batch, peak in ((2, 0.0025), (16, 0.02), (64, 0.08)):
        schedule = StepSchedule(**PAPER | {"batch_size": batch}, warmup_steps=0)
        np.testing.assert_allclose(rates(schedule, [1, 2]), [peak] * 2, rtol=1e-6)


def test_cosine():
    schedule = CosineSchedule(base=0.16, batch_size=1, steps=101, warmup_steps=0, final=0.01)
    wanted = [0.01 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / 101))) for step in (25, 50, 75)]
    np.testing.assert_allclose(rates(schedule, [26, 51, 76]), wanted, rtol=1e-5)
    assert rates(schedule, [102])[0] == pytest.approx(1e-4) == pytest.approx(rates(schedule, [500])[0])
    assert rates(schedule, [101])[0] < 1.1e-4
    warm = CosineSchedule(base=0.16, batch_size=1, steps=1000, warmup_steps=11, warmup_factor=0.1)
    np.testing.assert_allclose(rates(warm, [1, 6]), [0.001, 0.0055], rtol=1e-3)


def gradients_at(step):
    generator = np.random.default_rng(step)
    return [generator.normal(size=3).astype(np.float32), generator.normal(size=(2, 2)).astype(np.float32)]


def test_sgd_is_a_loop_of_numpy_while_the_rate_changes():
    schedule = StepSchedule(base=0.8, batch_size=16, steps=10, warmup_steps=4, milestones=(0.6,))
    weights = [np.ones(3, np.float32), np.full((2, 2), -2, np.float32)]
    variables = [tf.Variable(w) for w in weights]
    optimizer = SGD(schedule, momentum=0.9, decay=0.05).build()
    optimizer.build(variables)
    velocities = [np.zeros_like(w) for w in weights]
    for step in range(10):
        gradients = gradients_at(step)
        optimizer.apply_gradients(zip([tf.constant(g) for g in gradients], variables, strict=True))
        rate = float(schedule(step))
        for w, v, g in zip(weights, velocities, gradients, strict=True):
            v[:] = 0.9 * v + g + 0.05 * w
            w -= rate * v
    for variable, w in zip(variables, weights, strict=True):
        np.testing.assert_allclose(variable, w, rtol=1e-5)


def still_moving(recipe, model):
    """Names and ranks of the variables that a step without any gradient changes: those that decay."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(tf.ones_like(variable))
    optimizer = recipe.build()
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])
    return [(v.name, len(v.shape)) for v in variables if (v.numpy() != 1).any()]


def test_adamw_spares_norms_and_biases_sgd_does_not(tiny_model):
    _, model = tiny_model()
    constant = {"base": 0.1, "batch_size": 16, "steps": 100, "warmup_steps": 0}
    decayed = still_moving(AdamW(CosineSchedule(**constant), decay=0.05), model)
    # Every kernel is at least a matrix; norms' scales and offsets, and biases, are vectors.
    assert {rank for _, rank in decayed} == {2, 4}
    assert len(decayed) == sum(len(v.shape) > 1 for v in model.trainable_variables)
    assert not [name for name, _ in decayed if "gamma" in name or "beta" in name or "bias" in name]
    assert len(still_moving(SGD(StepSchedule(**constant)), model)) == len(model.trainable_variables)


def test_adamw_steps_as_keras_own():
    schedule = CosineSchedule(base=0.1, batch_size=16, steps=20, warmup_steps=5)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 4)).astype(np.float32)
    ours, keras = tf.Variable(start), tf.Variable(start)
    optimizers = (AdamW(schedule, decay=0.05).build(), tf.keras.optimizers.AdamW(schedule, 0.05, jit_compile=False))
    for _ in range(20):
        gradient = tf.constant(rng.normal(size=(3, 4)), tf.float32)
        for optimizer, variable in zip(optimizers, (ours, keras), strict=True):
            optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(ours, keras, rtol=1e-4, atol=1e-5)
    assert np.abs(ours - start).min() > 0.01
