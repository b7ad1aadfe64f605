"""DetectoRS: switchable convolution and the recursive pyramid against the original, and what differs in training."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones import resnet
from htc_tf.models.backbones.resnet import ResNet
from htc_tf.models.backbones.swin import Swin
from htc_tf.models.fpn import FPN
from htc_tf.models.recursive_fpn import RecursiveFPN, SpatialPyramidPooling
from htc_tf.weights import entries, load_mmdet

WEIGHTS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "reference" / "detectors_weights.py"))
SWITCHABLE = {"switchable_stages": (3, 4, 5)}
CASES = {"sac": (SWITCHABLE, False), "rfp": ({}, True), "both": (SWITCHABLE, True)}


class Network(tf.keras.layers.Layer):
    """A small backbone, and the neck of a recursive case: the parts that the tables of names read."""

    def __init__(self, case):
        super().__init__(name="htc")
        options, recursive = CASES[case]
        sizes = {"width": 8, "standardized": True, **options}
        self.backbone = ResNet(with_images=recursive, **sizes)
        self.neck = RecursiveFPN(FPN(16), ResNet(feedback=True, **sizes), 4) if recursive else None

    def call(self, images, training=None):
        features = self.backbone(images, training=training)
        return features if self.neck is None else self.neck(features, training=training)


@pytest.fixture(scope="module")
def images():
    return tf.constant(WEIGHTS["images"]())


@pytest.fixture(scope="module")
def make(images):
    """make("sac") returns the Network of a case with the drawn weights, complete in both directions."""

    def make(case):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(resnet.BLOCKS, 50, WEIGHTS["BLOCKS"])
            return fill(case)

    def fill(case):
        network = Network(case)
        network(images)
        names = {entry.name: entry.their_shape(network) for entry in entries(network)}
        assert len(names) == len(network.variables)
        assert not any(load_mmdet(network, WEIGHTS["state_dict"](names)))
        return network

    return make


@pytest.fixture(scope="module")
def networks(make):
    return {case: make(case) for case in CASES}


def check(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def loss_of(levels):
    waves = (WEIGHTS["DRAWN"]["waves"](tuple(x.shape)) for x in levels.values())
    return sum(tf.reduce_sum(x * wave) for x, wave in zip(levels.values(), waves, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_features_and_gradients_are_those_of_the_original(networks, images, reference, name):
    network = networks[name]
    arrays = {k.removeprefix(f"{name}_"): v for k, v in reference("detectors").items() if k.startswith(f"{name}_")}
    table = {entry.name: entry for entry in entries(network)}
    wanted = {k.removeprefix("gradient_"): array for k, array in arrays.items() if k.startswith("gradient_")}
    assert len(wanted) >= 5

    with tf.GradientTape() as tape:
        levels = network(images, training=True)
        loss = loss_of(levels)
    gradients = tape.gradient(loss, [table[key].variable for key in wanted])
    assert list(levels) == [2, 3, 4, 5, 6][: len(levels)] and len(levels) == len(arrays) - len(wanted)
    for level, found in levels.items():
        check(found, arrays[f"level{level}"], 1e-4)
    for (key, expected), gradient in zip(wanted.items(), gradients, strict=True):
        check(table[key].layout.theirs(gradient.numpy(), None), expected, 1e-3)


def test_bfloat16(make, images, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    for level, found in make("rfp")(images).items():
        expected = reference("detectors")[f"rfp_level{level}"]
        assert found.dtype == tf.bfloat16
        assert np.sqrt(np.mean((tf.cast(found, tf.float32) - expected) ** 2)) < 0.03 * np.std(expected)


def test_the_pooling_under_xla(images):
    layer = SpatialPyramidPooling(2, "pooling")
    x = images[:, :10, :13]

    def learn(x):
        with tf.GradientTape() as tape:
            value = layer(x)
            loss = tf.reduce_sum(value**2)
        return value, *tape.gradient(loss, layer.trainable_variables)

    expected = learn(x)
    assert expected[0].shape == (1, 10, 13, 8) and len(expected) == 9
    np.testing.assert_array_equal(expected[0][..., 6:], np.broadcast_to(expected[0][:, :1, :1, 6:], (1, 10, 13, 2)))
    for found, wanted in zip(tf.function(learn, jit_compile=True, autograph=False)(x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_frozen_stages_and_missing_images(make, images):
    network = make("rfp")
    for backbone in (network.backbone, network.neck.backbone):
        assert [blocks[0].trainable for blocks in backbone.stages] == [False, True, True, True]
        assert not backbone.stem.trainable
    assert not any("feedback" in v.name for v in network.backbone.variables)
    features = network.backbone(images)
    assert list(features) == [0, 2, 3, 4, 5] and features[0] is images
    del features[0]
    with pytest.raises(UserError, match=r"ResNet\.with_images = True"):
        network.neck(features)


def test_feedback_needs_a_backbone_that_receives_it_and_the_reverse(images):
    with pytest.raises(UserError, match=r"Swin receives no feedback; .*second/ResNet\.feedback = True"):
        RecursiveFPN(FPN(), Swin())
    with pytest.raises(UserError, match=r"ResNet receives no feedback"):
        RecursiveFPN(FPN(), ResNet())
    with pytest.raises(UserError, match=r"ResNet\.feedback = True needs the feedback of RecursiveFPN"):
        ResNet(width=8, feedback=True)(images)
