"""Res2Net against the original; XLA, precision, frozen stages and mistakes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.res2net import Res2Net
from htc_tf.ops.pooling import average_pool2d
from tests.models.backbones.originals import DRAWN, check_bfloat16, compare_with_original, load_drawn
from tests.slow import slow

TOY = {"depth": 50, "width": 8, "group_width": 24}  # groups of 3, 6, 12 and 24 channels


def make_network():
    """Returns a small Res2Net with the weights of the reference arrays, as the part of an HTC."""
    return load_drawn(Res2Net(**TOY, frozen_stages=-1))


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, *slow(True)])
def test_features_and_gradients_are_the_originals(compiled, network, images, reference):
    def forward():
        found = network.backbone(images, training=True)
        assert list(found) == [2, 3, 4, 5]
        return {f"level{level}": x for level, x in found.items()}, {}

    compare_with_original(network, forward, reference("res2net"), 8, compiled)


def test_bfloat16(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        found = make_network().backbone(images)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    check_bfloat16({f"level{level}": x for level, x in found.items()}, reference("res2net"), 0.03)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_averages_of_half_precision_lose_no_cells(dtype):
    x = tf.cast(tf.random.stateless_normal([1, 16, 16, 8], [1, 2]) + 3, dtype)
    expected = tf.nn.avg_pool2d(tf.cast(x, tf.float32), 3, 2, "VALID")
    np.testing.assert_array_equal(average_pool2d(x, 3, 2, "VALID"), tf.cast(expected, dtype))


def test_an_odd_map_is_averaged_without_padding(images):
    """The shortcut's average of 2 x 2 cells has fewer cells at the border of a map with an odd side."""
    res2net = Res2Net(**TOY)
    block = res2net.stages[1][0]
    x = images[:, :5, :7]
    block(x)
    block.expand.convolution.kernel.assign(tf.zeros_like(block.expand.convolution.kernel))
    block.projection.convolution.kernel.assign(tf.ones_like(block.projection.convolution.kernel))
    border = np.mean(x[0, 4, 6]) * 3 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(block(x)[0, 2, 3], np.full(64, max(border, 0)), atol=1e-5)


def test_frozen_stages_and_sizes():
    res2net = Res2Net(**TOY, frozen_stages=2)
    assert not res2net.stem.trainable
    assert [blocks[0].trainable for blocks in res2net.stages] == [False, False, True, True]
    assert [len(blocks) for blocks in res2net.stages] == [3, 4, 6, 3]
    assert [len(blocks) for blocks in Res2Net().stages] == [3, 4, 23, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 18}, "Res2Net.depth = 18"),
        ({"groups": 1}, "Res2Net.groups = 1"),
        ({"width": 2, "group_width": 26}, "give 32 or more"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        Res2Net(**arguments)
