"""HRNet with its neck against the originals; XLA, precision and mistakes."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.hrnet import HRNet
from htc_tf.models.hrfpn import HRFPN
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "reference" / "drawn_weights.py"))


def make_network():
    """Returns the parts of an HTC that the tables of names read, with the weights of the reference arrays."""
    backbone, neck = HRNet(width=4, blocks=1, exchanges=(1, 2, 1)), HRFPN(channels=8)
    neck(backbone(tf.zeros([1, 64, 96, 3])))
    variables = [*backbone.variables, *neck.variables]
    network = SimpleNamespace(backbone=backbone, neck=neck, built=True, variables=variables)
    shapes = {name: array.shape for name, array in mmdet_arrays(network).items()}
    assert load_mmdet(network, DRAWN["state_dict"](shapes)) == Unmatched([], [], [])
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def images():
    return tf.constant(DRAWN["images"]())


@pytest.mark.parametrize("compiled", [False, True])
def test_features_and_gradients_are_the_originals(compiled, network, images, reference):
    """The largest difference is a fraction of the array's largest value."""
    expected = reference("hrnet")
    table = {entry.name: entry for entry in entries(network)}
    wanted = {name: table[name.removeprefix("gradient_")] for name in expected if name.startswith("gradient_")}
    assert len(wanted) == 12

    @tf.function(jit_compile=compiled, autograph=False)
    def learn():
        with tf.GradientTape() as tape:
            features = network.backbone(images, training=True)
            pyramid = network.neck(features, training=True)
            loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in pyramid.values())
        return features, pyramid, tape.gradient(loss, [entry.variable for entry in wanted.values()])

    features, pyramid, gradients = learn()
    assert (list(features), list(pyramid)) == ([2, 3, 4, 5], [2, 3, 4, 5, 6])
    named = {f"branch{level - 2}": x for level, x in features.items()}
    for name, x in (named | {f"level{level}": x for level, x in pyramid.items()}).items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5 * abs(expected[name]).max(), err_msg=name)
    for (name, entry), gradient in zip(wanted.items(), gradients, strict=True):
        here = entry.layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, expected[name], atol=1e-4 * abs(expected[name]).max(), err_msg=name)


def test_bfloat16(images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = make_network()
        pyramid = network.neck(network.backbone(images))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    for level, x in pyramid.items():
        assert x.dtype == tf.bfloat16
        expected = reference("hrnet")[f"level{level}"]
        assert np.sqrt(np.mean((tf.cast(x, tf.float32) - expected) ** 2)) < 0.03 * np.std(expected)


def test_batch_norms_learn_statistics_if_asked(images):
    backbone = HRNet(width=2, blocks=1, exchanges=(1, 1, 1), norm="batch")
    backbone(images, training=True)
    moved = [np.any(v != 0) for v in backbone.non_trainable_variables if "moving_mean" in v.name]
    assert len(moved) == len(backbone.non_trainable_variables) / 2 and all(moved)


@pytest.mark.parametrize("side, rows", [(32, 1), (64, 1), (96, 1), (160, 2)])
def test_rows_of_p6(side, rows):
    """Those of whole windows alone, as in the original; it fails below 64 pixels."""
    features = {level: tf.ones([1, side >> level, side >> level, 2]) for level in (2, 3, 4, 5)}
    assert HRFPN(channels=2)(features)[6].shape[1:3] == [rows, rows]


def test_mistakes():
    with pytest.raises(UserError, match=r"HRNet\.exchanges = .* 3 items"):
        HRNet(exchanges=(1, 4))
