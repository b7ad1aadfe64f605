"""Switchable and standardized convolution: golden numbers, equivalences, precision and mistakes."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.resnet import Block, ResNet
from htc_tf.models.layers import Convolution
from htc_tf.models.switchable import StandardizedConv2D, SwitchableConv2D, window_mean


def draw(*shape):
    return tf.constant(np.random.default_rng(sum(shape)).standard_normal(shape), tf.float32)


def test_golden_kernel():
    """1, 2, 3 and 4 have the mean 2.5 and the deviation sqrt(5 / 3), by the unbiased estimate."""
    layer = StandardizedConv2D(1, 2)
    layer(tf.zeros([1, 4, 4, 1]))
    layer.kernel.assign(tf.reshape([1.0, 2.0, 3.0, 4.0], [2, 2, 1, 1]))
    expected = np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(5 / 3)
    np.testing.assert_allclose(tf.reshape(layer.standardize(), [-1]), np.sqrt(2 / 4) * expected, rtol=1e-5)  # He's
    layer.kernel_deviation.assign([[[[1.0]]]])
    np.testing.assert_allclose(tf.reshape(layer.standardize(), [-1]), expected, rtol=1e-5)
    layer.kernel_deviation.assign([[[[2.0]]]])
    layer.kernel_mean.assign([[[[10.0]]]])
    np.testing.assert_allclose(tf.reshape(layer.standardize(), [-1]), 2 * expected + 10, rtol=1e-5)
    assert [v.name for v in layer.trainable_variables] == [layer.kernel.name]


def test_golden_window():
    """Of 0, 1, 2, 3 in a row, 1 and 2 are reflected at the left, 2 and 1 at the right."""
    rows = tf.tile(tf.range(4.0)[None, None, :, None], [1, 3, 1, 1])
    np.testing.assert_allclose(window_mean(rows)[0, :, :, 0], np.tile([6 / 5, 7 / 5, 8 / 5, 9 / 5], [3, 1]), rtol=1e-6)
    np.testing.assert_allclose(window_mean(tf.ones([1, 2, 2, 1])), np.full([1, 2, 2, 1], 4 / 25), rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_new_switchable_convolution_equals_an_ordinary_one(stride):
    x = draw(2, 6, 8, 4)
    layer = SwitchableConv2D(4, stride)
    layer(x)
    plain = Convolution(4, 3, stride, bias=False)
    plain(x)
    plain.convolution.kernel.assign(layer.standardize())
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-4)
    # With the switch off, the taps are three cells apart.
    layer.switch.bias.assign([0.0])
    padded = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    spread = tf.nn.conv2d(padded, layer.standardize(), 1, "VALID", dilations=3)[:, ::stride, ::stride]
    np.testing.assert_allclose(layer(x), spread, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_xla_gives_the_same(stride):
    x = draw(1, 6, 8, 4)
    layer = SwitchableConv2D(4, stride)
    layer(x)
    layer.set_weights([v + 0.2 * draw(*v.shape).numpy() for v in layer.get_weights()])

    def learn(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = layer(x)
            loss = tf.reduce_sum(value**2)
        return value, *tape.gradient(loss, [x, *layer.trainable_variables])

    plain, compiled = tf.function(learn, autograph=False)(x), tf.function(learn, jit_compile=True, autograph=False)(x)
    assert len(plain) == 2 + 12
    for expected, found in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_bfloat16_rounds_the_result_only():
    x = draw(1, 6, 8, 4)
    wide = SwitchableConv2D(4)
    wide(x)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    layer = SwitchableConv2D(4)
    layer(x)
    layer.set_weights([v + 0.1 * draw(*v.shape).numpy() for v in wide.get_weights()])
    wide.set_weights(layer.get_weights())
    with tf.GradientTape() as tape:
        value = layer(x)
    assert value.dtype == tf.bfloat16
    assert {g.dtype for g in tape.gradient(value, layer.trainable_variables)} == {tf.float32}
    error = tf.cast(value, tf.float32) - wide(x)
    assert np.sqrt(np.mean(error**2)) < 0.03 * np.std(wide(x))


def test_feedback_is_added_before_the_relu():
    block = Block(4, 1, True, True, "batch", "block", feedback=True)
    x, feedback = draw(1, 4, 4, 8), draw(1, 4, 4, 2)
    before = block(x, feedback)
    block.feedback.convolution.bias.assign(tf.fill([16], 100.0))
    after = block(x, feedback)
    assert np.all(before >= 0) and np.all(after > 90) and np.any(after < 100)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 18, "switchable_stages": (3,)}, "has no bottlenecks"),
        ({"depth": 34, "feedback": True}, "has no bottlenecks"),
        ({"standardized": True, "groups": 32, "group_width": 4}, "give only one kind"),
        ({"switchable_stages": (3,), "deformable": 1, "deformable_stages": (3,)}, "give only one kind"),
        ({"switchable_stages": (6,)}, "at least 2, at most 5"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        ResNet(**options)
