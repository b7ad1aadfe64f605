"""Optimizers and schedules: expected rates, and updates that NumPy repeats."""

import math

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.checkpoint import count_bytes, optimizer_variables
from htc_tf.errors import UserError
from htc_tf.training.optim import LAMB, SGD, SGDW, AdamW
from htc_tf.training.parameter_groups import layer_decay
from htc_tf.training.schedules import CosineSchedule, StepSchedule, learning_rate

PAPER_FILE = "gin/htc_r50_fpn_1x_coco.gin"
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


def test_a_scaled_rate():
    schedule = StepSchedule(**PAPER, warmup_steps=0)
    for _ in range(2):  # the schedule itself keeps its rate
        scaled = learning_rate(schedule, scale=0.5)
        np.testing.assert_allclose(rates(scaled, [1, 59145, 88716]), [0.01, 0.001, 0.0001], rtol=1e-6)


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


def decayed_variables(recipe, model):
    """Returns names and ranks of the variables that a step of zero gradients changes: those that decay."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(tf.ones_like(variable))
    optimizer = recipe.build()
    optimizer.build(variables)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])
    return [(v.name, len(v.shape)) for v in variables if (v.numpy() != 1).any()]


def test_adamw_does_not_decay_norms_and_biases_but_sgd_does(tiny_model):
    _, model = tiny_model()
    constant = {"base": 0.1, "batch_size": 16, "steps": 100, "warmup_steps": 0}
    decayed = decayed_variables(AdamW(CosineSchedule(**constant), decay=0.05), model)
    # Every kernel is at least a matrix; norms' scales and offsets, and biases, are vectors.
    assert {rank for _, rank in decayed} == {2, 4}
    assert len(decayed) == sum(len(v.shape) > 1 for v in model.trainable_variables)
    assert not [name for name, _ in decayed if "gamma" in name or "beta" in name or "bias" in name]
    assert len(decayed_variables(SGD(StepSchedule(**constant)), model)) == len(model.trainable_variables)


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


CONSTANT = {"base": 0.1, "batch_size": 16, "steps": 100, "warmup_steps": 0}
RECIPES = (SGD, AdamW, SGDW, LAMB)


def named_variables():
    """A backbone's kernel and norm, a head's kernel and bias."""
    names = ("htc/backbone/conv/kernel", "htc/backbone/norm/gamma", "htc/head/kernel", "htc/head/bias")
    draw = np.random.default_rng(3)
    return [tf.Variable(draw.normal(size=(3, 4)).astype(np.float32), name=name) for name in names]


def apply(optimizer, gradients, variables):
    pairs = zip([tf.constant(g) for g in gradients], variables, strict=True)
    optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def test_the_override_of_sgdw_decays_as_much_as_sgd():
    """Without gradients: a coupled decay passes through the momentum, which multiplies it by 10."""
    changes = []
    for files in ([PAPER_FILE], [PAPER_FILE, "gin/options/sgdw.gin"]):
        experiment, _ = config.load(files, ["WARMUP_STEPS=0", "STEPS=1000", "EPOCHS=None"])
        kernel, optimizer = tf.Variable([1.0], name="htc/head/kernel"), experiment.optimizer.build()
        optimizer.build([kernel])
        for _ in range(80):
            before = kernel.numpy()
            apply(optimizer, [np.zeros(1, np.float32)], [kernel])
        changes.append(kernel.numpy() - before)
    np.testing.assert_allclose(changes[1], changes[0], rtol=0.01)


@pytest.mark.parametrize("recipe", [AdamW, SGDW, LAMB])
def test_norms_and_biases_do_not_decay_whatever_they_are_called(recipe):
    decayed = ["fpn/lateral/kernel", "backbone/v2_stack_1/conv/kernel"]
    not_decayed = ["norm1/gamma", "head/bias", "v2_stack_1_bn/gamma", "v2_stack_1_bn/beta", "relative_position_bias"]
    groups = recipe(StepSchedule(**CONSTANT)).groups
    groups.resolve([tf.Variable(0.0, name=name) for name in decayed + not_decayed])
    assert groups.multipliers == [(1.0, 1.0)] * len(decayed) + [(1.0, 0.0)] * len(not_decayed)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("addons_or_ours")
def test_groups_multiply_rate_and_decay(recipe):
    """Each weight moves as if it were alone under an optimizer with that rate and decay."""
    groups = (("backbone/", 0.1, 1.0), ("norm|bias", 1.0, 0.0), ("norm", 0.5, 1.0))
    multipliers = [(0.1, 1), (0.05, 0), (1, 1), (1, 0)]
    grouped = named_variables()
    optimizer = recipe(StepSchedule(**CONSTANT), decay=0.05, groups=groups).build()
    optimizer.build(grouped)
    alone = [[v] for v in named_variables()]
    optimizers = []
    for members, (rate, decay) in zip(alone, multipliers, strict=True):
        schedule = StepSchedule(**CONSTANT | {"base": 0.1 * rate})
        # With a multiplier of 0 LAMB does not adapt to the norm of the weight either.
        exempt = (("", 1.0, 0.0),) if decay == 0 else ()
        optimizers.append(recipe(schedule, decay=0.05, groups=exempt).build())
        optimizers[-1].build(members)
    draw = np.random.default_rng(0)
    for _ in range(3):
        gradients = draw.normal(size=(4, 3, 4)).astype(np.float32)
        apply(optimizer, gradients, grouped)
        for one, gradient, members in zip(optimizers, gradients, alone, strict=True):
            apply(one, [gradient], members)
    for variable, (single,) in zip(grouped, alone, strict=True):
        np.testing.assert_allclose(variable, single, rtol=1e-5, atol=1e-6, err_msg=variable.name)


def test_layer_decay_lowers_the_rates_of_first_layers():
    groups = AdamW(StepSchedule(**CONSTANT), groups=layer_decay(("stem", "stage1/"), rate=0.5)).groups
    groups.resolve([tf.Variable(0.0, name=name) for name in ("stem/kernel", "stage1/norm/gamma", "neck/kernel")])
    assert groups.multipliers == [(0.25, 1.0), (0.5, 0.0), (1.0, 1.0)]
    assert layer_decay(("stem",), rate=0.5, others=()) == (("stem", 0.5, 1.0),)
    with pytest.raises(UserError, match=r"layer_decay\.rate = 1\.1"):
        layer_decay(("stem",), rate=1.1)


def test_layer_decay_leaves_no_block_out():
    """A deeper backbone than `layers` describes would learn at the full rate in its last blocks."""
    weights = [tf.Variable(0.0, name=f"{name}/kernel") for name in ("a/block1", "a/block2", "a/block3", "neck")]

    def resolve(layers, within):
        groups = layer_decay(layers, 0.5, others=(), within=within)
        AdamW(StepSchedule(**CONSTANT), groups=groups).groups.resolve(weights)

    resolve(("block1", "block2"), None)
    resolve(("block1", "block2", "block3"), "a/block")
    with pytest.raises(UserError, match=r"matches 'a/block2/kernel:0' with none of its 1 patterns \(2 such weights\)"):
        resolve(("block1",), "a/block")
    with pytest.raises(UserError, match=r"layer_decay\.within = '\(' is not a pattern of names"):
        resolve(("block1",), "(")


@pytest.mark.usefixtures("addons_or_ours")
@pytest.mark.parametrize("recipe, slots", [(SGD, 1), (AdamW, 2), (SGDW, 1), (LAMB, 2)])
def test_slots_are_counted_in_memory_and_checkpoints(recipe, slots):
    """Legacy optimizers are not modules, so TensorFlow alone would not find their variables."""
    variables = named_variables()
    optimizer = recipe(StepSchedule(**CONSTANT)).build()
    optimizer.build(variables)
    weights = count_bytes(variables)
    assert slots * weights <= count_bytes(optimizer_variables(optimizer)) < slots * weights + 100


@pytest.mark.usefixtures("addons_or_ours")
def test_mistaken_groups_are_named():
    misspelt = (("norm", 1.0, 0.0), ("bakbone", 0.1, 1.0))
    for recipe in RECIPES:
        with pytest.raises(UserError, match=rf"{recipe.__name__}\.groups.*'bakbone'"):
            recipe(StepSchedule(**CONSTANT), groups=misspelt).build().build(named_variables())
    for wrong in (("norm", 1.0), ("(", 1.0, 1.0), ("norm", "much", 1.0), 3):
        with pytest.raises(UserError, match=r"SGD\.groups"):
            SGD(StepSchedule(**CONSTANT), groups=(wrong,))


@pytest.mark.usefixtures("addons_or_ours")
def test_sgdw_and_lamb_update_as_in_their_papers():
    """Decoupled SGD and LAMB by NumPy, while the rate changes; one weight decays, the other is a bias."""
    schedule = StepSchedule(base=0.8, batch_size=16, steps=8, warmup_steps=4, warmup_factor=0.1, milestones=(0.6,))
    draw = np.random.default_rng(1)
    start = draw.normal(size=(2, 3, 4)).astype(np.float32)
    gradients = draw.normal(size=(8, 2, 3, 4)).astype(np.float32)
    for recipe in (SGDW, LAMB):
        variables = [tf.Variable(value, name=name) for value, name in zip(start, ("kernel", "bias"), strict=True)]
        optimizer = recipe(schedule, decay=0.05).build()
        optimizer.build(variables)
        weights, first, second = start.astype(np.float64), np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
        for step, gradient in enumerate(gradients):
            apply(optimizer, gradient, variables)
            rate = float(schedule(step))
            if recipe is SGDW:
                weights[0] *= 1 - 0.05 * rate / 0.8
                first = 0.9 * first - rate * gradient
                weights += first
                continue
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            move = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-6)
            move[0] += 0.05 * weights[0]
            move[0] *= np.linalg.norm(weights[0]) / np.linalg.norm(move[0])
            weights -= rate * move
        for variable, wanted in zip(variables, weights, strict=True):
            np.testing.assert_allclose(variable, wanted, rtol=1e-4, atol=1e-5, err_msg=recipe.__name__)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("addons_or_ours")
def test_slots_are_saved_and_restored_before_the_first_step(recipe, tmp_path):
    def begin():
        variables = [tf.Variable(np.ones((2, 3), np.float32), name=name) for name in ("kernel", "bias")]
        optimizer = recipe(StepSchedule(**CONSTANT)).build()
        optimizer.build(variables)
        return variables, optimizer, tf.train.Checkpoint(model=variables, optimizer=optimizer)

    gradients = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)
    variables, optimizer, checkpoint = begin()
    apply(optimizer, gradients[0], variables)
    path = checkpoint.save(str(tmp_path / "ckpt"))
    apply(optimizer, gradients[1], variables)
    others, other, restored = begin()
    restored.restore(path).assert_existing_objects_matched().assert_consumed()
    assert int(other.iterations) == 1
    apply(other, gradients[1], others)
    for one, wanted in zip(others, variables, strict=True):
        np.testing.assert_array_equal(one, wanted)
