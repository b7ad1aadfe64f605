"""`htc_tf.build`: a network and its loss from gin files, in Python."""

import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import htc_tf
from htc_tf import config
from htc_tf.caller_state import preserve_caller_state
from htc_tf.errors import UserError
from htc_tf.models.htc import HTC
from htc_tf.run import Run
from htc_tf.structures import Detections

TINY = "tests/tiny.gin"


def test_build_makes_a_model_and_its_loss(tiny_run, eagerly):
    model, loss = htc_tf.build(TINY, NUM_STAGES=2)
    images, sizes = tf.zeros([1, 64, 64, 3], tf.uint8), tf.constant([[64.0, 64.0]])
    outputs = model(images, sizes)
    assert len(outputs.stages) == len(model.stages) == 2 and len(loss.stage_weights) >= 2
    assert isinstance(model.detect(outputs), Detections)
    assert model.trainable_variables
    again, _ = htc_tf.build(TINY, NUM_STAGES=2)
    for first, second in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(first, second)


def test_losses_of_a_batch(drawn_batch, eagerly):
    """The README's lines, on a batch of the tiny records; `value` is the training step's loss of one replica."""
    model, loss = htc_tf.build(TINY)
    batch = drawn_batch
    seed = tf.constant([0, 1])
    named = loss(model(batch.images, batch.sizes, batch.truth, seed), batch.truth, batch.sizes, seed)
    assert {"rpn_class", "rpn_box", "stage1_class", "stage3_mask", "semantic"} <= set(named)
    for part in named.values():
        assert float(part.value) == pytest.approx(part.weight * float(part.total) / max(float(part.count), 1))
    assert np.isfinite(float(sum(part.value for part in named.values())))


def test_build_restores_the_weights_of_a_run(tiny_run, eagerly):
    random, _ = htc_tf.build(TINY, NUM_STAGES=2)
    trained, _ = htc_tf.build(TINY, weights=tiny_run.folder, NUM_STAGES=2)
    assert any(not np.array_equal(a, b) for a, b in zip(random.variables, trained.variables, strict=True))
    detector = htc_tf.load(tiny_run.folder).detector
    for ours, theirs in zip(trained.variables, detector.model.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("files", "params"), [("a.gin", "X=1"), (Path("a.gin"), ("X=1",)), (["a.gin"], ["X=1"]), ((Path("a.gin"),), "X=1")]
)
def test_one_gin_file_needs_no_list(tmp_path, monkeypatch, files, params):
    """Each letter of a string was a file."""

    def load(files, params, *rest):
        raise UserError(f"{[str(file) for file in files]} {params}")

    monkeypatch.setattr(config, "load", load)
    monkeypatch.setattr(Run, "read_categories", lambda run: [])
    with pytest.raises(UserError) as refused:
        htc_tf.load(tmp_path, files, params)
    assert str(refused.value) == "['a.gin'] ['X=1']"


@pytest.mark.parametrize("call", ["build", "load"])
def test_the_callers_process_stays_as_it_is(tiny_run, eagerly, monkeypatch, call):
    """Neither random numbers, nor the Keras policy, nor determinism of the code around htc_tf change."""

    def draw():
        layer = tf.keras.layers.Dense(1)
        layer.build([None, 1])
        numbers = random.random(), np.random.rand(), float(tf.random.uniform([])), layer.kernel.numpy().item()
        return *numbers, layer.compute_dtype

    def refuse():
        raise AssertionError("determinism")

    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", refuse)
    drawn = []
    for changed in (False, True):
        tf.keras.utils.set_random_seed(5)
        draw()
        if changed and call == "build":
            htc_tf.build(TINY, NUM_STAGES=1, PRECISION="bfloat16", DETERMINISTIC=True)
        elif changed:
            htc_tf.load(tiny_run.folder, gin_param=["PRECISION='bfloat16'", "DETERMINISTIC=True"])
        drawn.append(draw())
    assert drawn[0] == drawn[1]


def test_a_process_without_a_seed_stays_without(monkeypatch):
    monkeypatch.setattr(context.context(), "_seed", None)
    monkeypatch.delattr(context.context(), "_rng", raising=False)
    with preserve_caller_state():
        tf.keras.utils.set_random_seed(1)
    assert context.global_seed() is None


def test_a_refused_build_leaves_the_policy_alone(monkeypatch):
    monkeypatch.setattr(HTC, "build_variables", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        htc_tf.build(TINY, PRECISION="bfloat16")
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_memory_growth_of_a_gpu_in_use_stays_as_it_is(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    experiment, _ = config.load([TINY], [])
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", refuse)
    experiment.prepare_runtime(0)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], {}, "no configuration"),
        (["nowhere.gin"], {}, "nowhere.gin"),
        ([TINY], {"NUM_CLASES": 3}, "NUM_CLASES"),
        ([TINY], {"NUM_CLASSES": 0}, "NUM_CLASSES = 0"),
        ([TINY], {"weights": "nowhere"}, "nowhere"),
    ],
)
def test_build_refuses(files, options, message):
    with pytest.raises(UserError, match=message):
        htc_tf.build(*files, **options)
