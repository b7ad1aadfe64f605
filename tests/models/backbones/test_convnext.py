"""ConvNeXt against the original; XLA, stochastic depth, precision and mistakes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.convnext import ConvNeXt, ConvNeXtBlock
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "reference" / "drawn_weights.py"))
TOY = {"channels": 8, "depths": (2, 1, 3, 1)}


def network(backbone):
    """The part of an HTC that the tables of names read."""
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def make_convnext(**arguments):
    """Returns a small ConvNeXt with the weights of the reference arrays."""
    convnext = ConvNeXt(**{**TOY, **arguments})
    convnext(tf.zeros([1, 64, 96, 3]))
    shapes = {name: array.shape for name, array in mmdet_arrays(network(convnext)).items()}
    assert load_mmdet(network(convnext), DRAWN["state_dict"](shapes)) == Unmatched([], [], [])
    return convnext


@pytest.fixture(scope="module")
def convnext():
    return make_convnext()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, True])
def test_features_and_gradients_are_the_originals(compiled, convnext, images, reference):
    """The largest difference is a fraction of the array's largest value."""
    expected = reference("convnext")
    table = {entry.name: entry for entry in entries(network(convnext))}
    wanted = {name: table[name.removeprefix("gradient_")] for name in expected if name.startswith("gradient_")}
    assert len(wanted) == 8

    @tf.function(jit_compile=compiled, autograph=False)
    def learn():
        with tf.GradientTape() as tape:
            found = convnext(images)
            loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in found.values())
        return found, tape.gradient(loss, [entry.variable for entry in wanted.values()])

    found, gradients = learn()
    assert list(found) == [2, 3, 4, 5]
    for level, x in found.items():
        np.testing.assert_allclose(x, expected[f"level{level}"], atol=1e-5 * abs(expected[f"level{level}"]).max())
    for (name, entry), gradient in zip(wanted.items(), gradients, strict=True):
        here = entry.layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, expected[name], atol=1e-4 * abs(expected[name]).max(), err_msg=name)


def test_bfloat16_keeps_norms_in_float32(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        convnext = make_convnext()
        found = convnext(images)
        graph = tf.function(convnext, autograph=False).get_concrete_function(images).graph
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for kind, dtype in (("Rsqrt", tf.float32), ("DepthwiseConv2dNative", tf.bfloat16), ("Erf", tf.bfloat16)):
        assert {op.outputs[0].dtype for op in graph.get_operations() if op.type == kind} == {dtype}, kind
    for level, x in found.items():
        assert x.dtype == tf.bfloat16
        expected = reference("convnext")[f"level{level}"]
        assert np.sqrt(np.mean((tf.cast(x, tf.float32) - expected) ** 2)) < 0.03 * np.std(expected)


def test_a_dropped_block_leaves_its_input_and_a_kept_one_adds_more():
    """With a rate of 0.75, a kept image gets four times what the block adds in inference."""
    block = ConvNeXtBlock(4, layer_scale=1.0, drop_path=0.75, name="block")
    x = tf.random.stateless_normal([32, 7, 7, 4], [1, 2])
    added = block(x) - x
    trained = block(x, tf.constant([3, 4])) - x
    factors = np.round(tf.reduce_sum(trained * added, [1, 2, 3]) / tf.reduce_sum(added**2, [1, 2, 3]), 3)
    assert set(factors) == {0, 4} and 2 <= np.sum(factors == 4) <= 15
    np.testing.assert_allclose(trained, factors[:, np.newaxis, np.newaxis, np.newaxis] * added, atol=1e-5)


def test_a_repeated_step_drops_the_same_blocks(images):
    convnext = make_convnext(drop_path=0.5)
    rates = [block.drop_path for blocks in convnext.stages for block in blocks]
    assert rates == pytest.approx(np.linspace(0, 0.5, 7))
    trained = convnext(images, training=True)[5].numpy()
    np.testing.assert_array_equal(trained, convnext(images, training=True)[5])
    assert any(np.any(trained != convnext(images + 0.01 * i, training=True)[5]) for i in range(1, 4))
    assert np.abs(trained - convnext(images)[5]).max() > 0.1


def test_initial_layer_scale():
    block = ConvNeXtBlock(4, layer_scale=1e-6, drop_path=0.0, name="block")
    x = tf.random.stateless_normal([1, 7, 7, 4], [1, 2])
    np.testing.assert_allclose(block(x), x, atol=1e-5)
    np.testing.assert_array_equal(block.gamma, np.full(4, 1e-6, np.float32))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"depths": (3, 3, 9)}, "ConvNeXt.depths"),
        ({"drop_path": 1.0}, "ConvNeXt.drop_path = 1.0"),
        ({"layer_scale": 0}, "ConvNeXt.layer_scale = 0"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        ConvNeXt(**arguments)
