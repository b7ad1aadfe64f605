"""Res2Net against the original; XLA, precision, frozen stages and mistakes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.res2net import Res2Net
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "reference" / "drawn_weights.py"))
TOY = {"depth": 50, "width": 8, "group_width": 24}  # groups of 3, 6, 12 and 24 channels


def network(backbone):
    """The part of an HTC that the tables of names read."""
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def make_res2net():
    """Returns a small Res2Net with the weights of the reference arrays."""
    res2net = Res2Net(**TOY, frozen_stages=-1)
    res2net(tf.zeros([1, 64, 96, 3]))
    shapes = {name: array.shape for name, array in mmdet_arrays(network(res2net)).items()}
    assert load_mmdet(network(res2net), DRAWN["state_dict"](shapes)) == Unmatched([], [], [])
    return res2net


@pytest.fixture(scope="module")
def res2net():
    return make_res2net()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, True])
def test_features_and_gradients_are_the_originals(compiled, res2net, images, reference):
    """The largest difference is a fraction of the array's largest value."""
    expected = reference("res2net")
    table = {entry.name: entry for entry in entries(network(res2net))}
    wanted = {name: table[name.removeprefix("gradient_")] for name in expected if name.startswith("gradient_")}
    assert len(wanted) == 8

    @tf.function(jit_compile=compiled, autograph=False)
    def learn():
        with tf.GradientTape() as tape:
            found = res2net(images, training=True)
            loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in found.values())
        return found, tape.gradient(loss, [entry.variable for entry in wanted.values()])

    found, gradients = learn()
    assert list(found) == [2, 3, 4, 5]
    for level, x in found.items():
        np.testing.assert_allclose(x, expected[f"level{level}"], atol=1e-5 * abs(expected[f"level{level}"]).max())
    for (name, entry), gradient in zip(wanted.items(), gradients, strict=True):
        here = entry.layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, expected[name], atol=1e-4 * abs(expected[name]).max(), err_msg=name)


def test_bfloat16(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        found = make_res2net()(images)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for level, x in found.items():
        assert x.dtype == tf.bfloat16
        expected = reference("res2net")[f"level{level}"]
        assert np.sqrt(np.mean((tf.cast(x, tf.float32) - expected) ** 2)) < 0.03 * np.std(expected)


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
