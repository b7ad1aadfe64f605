"""Bytes that the forward pass keeps for the backward pass."""

import math

import tensorflow as tf

from htc_tf.training.kept import bytes_between, kept_bytes, needed_operations
from htc_tf.training.typical_load import SHARES
from tests.models.test_assistant import COMPOSITE


def kept_by(function, *shapes):
    """Returns the bytes that a function of variables keeps for the gradient of its result's sum."""
    variables = [tf.Variable(tf.zeros(shape)) for shape in shapes]
    first = 0

    def passes():
        nonlocal first
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(function(*variables))
        first = len(tf.compat.v1.get_default_graph().get_operations())
        return tape.gradient(total, variables)

    graph = tf.function(passes, autograph=False).get_concrete_function().graph
    operations, needed = graph.get_operations(), needed_operations(graph.outputs)
    return bytes_between(operations[:first], [op for op in operations[first:] if op in needed])


def test_what_the_gradient_reads_is_counted_once():
    """The logarithm's gradient reads its input, that of tanh its result; a sum's and a reshaping's read nothing."""
    assert kept_by(lambda x: tf.tanh(x + x), [5]) == 4 * 5
    assert kept_by(lambda x: tf.tanh(tf.reshape(tf.tanh(x), [1, 5])), [5]) == 2 * 4 * 5
    assert kept_by(lambda x: tf.math.log(x + 1.0) * tf.reshape(x + 1.0, [5]), [5]) == 3 * 4 * 5  # x + 1 twice, the log
    assert kept_by(lambda x: 2.0 * x, [5]) == 0
    # A variable is not allocated by the step.
    assert kept_by(lambda x, y: x @ y, [2, 3], [3, 4]) == 0
    assert kept_by(lambda x, y, z: x @ y @ z, [2, 3], [3, 4], [4, 7]) == 4 * 2 * 4


def test_mask_heads_keep_as_much_as_their_positives_need(tiny_model):
    _, model = tiny_model("NUM_STAGES=2", "MaskHead.norm=None")
    before, limit = kept_bytes(model, 64, 64), model.roi_sampler.mask_limit
    rows = [math.ceil(limit * share) for share in SHARES[:2]]
    sampler = model.roi_sampler
    sampler.mask_limit = 100 * limit
    try:
        grown = kept_bytes(model, 64, 64) - before
    finally:
        sampler.mask_limit = limit
    more = [math.ceil(100 * limit * share) - row for share, row in zip(SHARES, rows, strict=False)]
    # Per RoI: pooled features and the convolution's result; in the second stage also those of the first head's
    # convolution and of the 1x1, and the latter's sum with the pooled features; then the upsampled map.
    cells = 4 * 14 * 14 * 16
    first, second = 2 + 4, 5 + 4
    assert grown == more[0] * first * cells + more[1] * second * cells


def test_the_assistant_of_a_composite_is_counted(tiny_model):
    _, alone = tiny_model("NUM_STAGES=1")
    _, both = tiny_model(*COMPOSITE)
    # All but the stem and the first stage, which both share.
    assert kept_bytes(both, 64, 64) > 1.7 * kept_bytes(alone, 64, 64)
