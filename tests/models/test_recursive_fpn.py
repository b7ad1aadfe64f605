"""DetectoRS: switchable convolution and the recursive pyramid against the original, and what differs in training."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.models.backbones import resnet
from htc_tf.models.backbones.resnet import ResNet
from htc_tf.models.fpn import FPN
from htc_tf.models.recursive_fpn import RecursiveFPN
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


@pytest.mark.parametrize("name, compiled", [("sac", False), ("rfp", False), ("both", False), ("both", True)])
def test_features_and_gradients_are_those_of_the_original(networks, images, reference, name, compiled):
    network = networks[name]
    arrays = {k.removeprefix(f"{name}_"): v for k, v in reference("detectors").items() if k.startswith(f"{name}_")}
    table = {entry.name: entry for entry in entries(network)}
    wanted = {k.removeprefix("gradient_"): array for k, array in arrays.items() if k.startswith("gradient_")}
    assert len(wanted) >= 5

    def run(images):
        with tf.GradientTape() as tape:
            levels = network(images, training=True)
            loss = loss_of(levels)
        return levels, tape.gradient(loss, [table[key].variable for key in wanted])

    levels, gradients = tf.function(run, jit_compile=compiled, autograph=False)(images)
    assert list(levels) == [2, 3, 4, 5, 6][: len(levels)] and len(levels) == len(arrays) - len(wanted)
    for level, found in levels.items():
        check(found, arrays[f"level{level}"], 1e-4)
    for (key, expected), gradient in zip(wanted.items(), gradients, strict=True):
        check(table[key].layout.theirs(gradient.numpy(), None), expected, 1e-3)
