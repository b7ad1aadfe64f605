"""ConvNeXt against the original; XLA, stochastic depth, precision and mistakes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.convnext import ConvNeXt, ConvNeXtBlock
from tests.models.backbones.originals import DRAWN, check_bfloat16, compare_with_original, load_drawn
from tests.slow import slow

TOY = {"channels": 8, "depths": (2, 1, 3, 1)}


def make_convnext(**arguments):
    """Returns a small ConvNeXt with the weights of the reference arrays."""
    return load_drawn(ConvNeXt(**{**TOY, **arguments})).backbone


@pytest.fixture(scope="module")
def network():
    return load_drawn(ConvNeXt(**TOY))


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, *slow(True)])
def test_features_and_gradients_are_the_originals(compiled, network, images, reference):
    def forward():
        found = network.backbone(images)
        assert list(found) == [2, 3, 4, 5]
        return {f"level{level}": x for level, x in found.items()}, {}

    compare_with_original(network, forward, reference("convnext"), 8, compiled)


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
    check_bfloat16({f"level{level}": x for level, x in found.items()}, reference("convnext"), 0.03)


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
