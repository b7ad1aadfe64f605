"""Comparison of a backbone, alone or with its neck, with its original on drawn weights (tests/reference/originals)."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[2] / "reference" / "drawn_weights.py"))


def load_drawn(backbone, neck=None):
    """Returns the parts of an HTC that the tables of names read, with the weights of the reference arrays."""
    features = backbone(tf.zeros([1, 64, 96, 3]))
    variables = list(backbone.variables)
    if neck is not None:
        neck(features)
        variables += neck.variables
    network = SimpleNamespace(backbone=backbone, neck=neck, built=True, variables=variables)
    shapes = {name: array.shape for name, array in mmdet_arrays(network).items()}
    assert load_mmdet(network, DRAWN["state_dict"](shapes)) == Unmatched([], [], [])
    return network


def compare_with_original(network, forward, expected, count, compiled):
    """Compares maps within 1e-5 and gradients within 1e-4 of the largest value of the original's array.

    Args:
        network: The result of `load_drawn`.
        forward: Function without arguments that returns ({name: map} that the loss is over, {name: map} of others).
        expected: Reference arrays: the maps by name, and gradients named gradient_NAME.
        count: int, number of the gradients.
        compiled: If True, XLA compiles the forward and backward pass.
    """
    table = {entry.name: entry for entry in entries(network)}
    wanted = {name: table[name.removeprefix("gradient_")] for name in expected if name.startswith("gradient_")}
    assert len(wanted) == count

    def learn():
        with tf.GradientTape() as tape:
            outputs, others = forward()
            loss = sum(tf.reduce_sum(x * DRAWN["waves"](x.shape)) for x in outputs.values())
        return {**outputs, **others}, tape.gradient(loss, [entry.variable for entry in wanted.values()])

    found, gradients = (tf.function(learn, jit_compile=True, autograph=False) if compiled else learn)()
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5 * abs(expected[name]).max(), err_msg=name)
    for (name, entry), gradient in zip(wanted.items(), gradients, strict=True):
        assert isinstance(gradient, tf.Tensor)  # not IndexedSlices, whose sum is not deterministic
        here = entry.layout.theirs(gradient.numpy(), None)
        np.testing.assert_allclose(here, expected[name], atol=1e-4 * abs(expected[name]).max(), err_msg=name)


def check_bfloat16(found, expected, error):
    """Checks that maps are bfloat16, with an RMS error below that share of the original's standard deviation.

    Args:
        found: {name: map}.
        expected: {name: array}.
        error: float.
    """
    for name, x in found.items():
        assert x.dtype == tf.bfloat16
        difference = tf.cast(x, tf.float32) - expected[name]
        assert np.sqrt(np.mean(difference**2)) < error * np.std(expected[name]), name
