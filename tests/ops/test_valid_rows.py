"""Computation on valid rows alone: values and gradients of the padded computation, and the number of rows computed."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import valid_rows
from htc_tf.ops.valid_rows import map_valid_rows

# Valid rows of 2 x 11; chunks of 8 do not divide them.
COUNTS = {"none": 0, "one": 1, "a chunk": 8, "some": 13, "all": 22}


class Head(tf.Module):
    """A convolution that counts its input rows."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([3, 3, 4, 5], [0, 1]))
        self.seen = tf.Variable(0)

    def __call__(self, x, offsets):
        self.seen.assign_add(tf.shape(x)[0])
        return tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "SAME") + offsets[:, None, None, None])


@pytest.fixture(scope="module")
def gradient_functions():
    """{form: function of valid [2, 11] that returns values, gradients of features and kernel, and the rows counted}."""
    head = Head()
    features = tf.random.stateless_normal([22, 6, 6, 4], [0, 2])
    offsets = tf.random.stateless_normal([22], [0, 3])
    wanted = tf.random.stateless_normal([2, 11, 6, 6, 5], [0, 4])

    def padded(valid):
        values = tf.reshape(head(features, offsets), wanted.shape)
        return tf.where(valid[..., None, None, None], values, 0.0)

    def make(run, **options):
        def value_and_gradients(valid):
            head.seen.assign(0)
            with tf.GradientTape() as tape:
                tape.watch(features)
                values = run(valid)
                loss = tf.reduce_sum(values * wanted)
            gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [features, head.kernel])]
            return values, *gradients, head.seen.read_value()

        return tf.function(value_and_gradients, autograph=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(valid_rows, "CHUNK", 8)
        compiled = tf.function(
            lambda features, valid: map_valid_rows(head, [features, offsets], valid, xla=True),
            jit_compile=True,
            autograph=False,
        )
        yield {
            "padded": make(padded),
            "graph": make(lambda valid: map_valid_rows(head, [features, offsets], valid)),
            "xla": make(lambda valid: map_valid_rows(head, [features, offsets], valid, xla=True), jit_compile=True),
            # As in the training step of several replicas, which sum their normalizers in between.
            "xla, forward and backward apart": make(lambda valid: compiled(features, valid)),
        }


@pytest.mark.parametrize("form", ["graph", "xla", "xla, forward and backward apart"])
@pytest.mark.parametrize("count", COUNTS)
def test_equals_the_padded_computation(gradient_functions, form, count):
    chosen = np.random.default_rng(1).permutation(22) < COUNTS[count]
    valid = tf.constant(chosen.reshape(2, 11))
    *wanted, everything = gradient_functions["padded"](valid)
    *got, seen = gradient_functions[form](valid)
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    assert not got[0].numpy()[~valid.numpy()].any() and got[0].shape == (2, 11, 6, 6, 5)
    rounded = -(-COUNTS[count] // 8) * 8
    # Without valid rows graph mode still computes a few. Under XLA the gradient computes them again.
    assert everything == 22 and seen == (np.clip(rounded, 8, 22) if form == "graph" else 2 * rounded)


def test_batch_size_may_be_known_only_when_compiled():
    signature = [tf.TensorSpec([None, 3]), tf.TensorSpec([None, 5], tf.bool)]
    double = tf.function(
        lambda rows, valid: map_valid_rows(lambda x: 2.0 * x, [rows], valid, xla=True),
        signature,
        jit_compile=True,
        autograph=False,
    )
    for batch in (1, 8):
        rows = np.arange(batch * 15.0, dtype="f4").reshape(-1, 3)
        valid = np.arange(batch * 5).reshape(batch, 5) % 4 > 0
        np.testing.assert_array_equal(double(rows, valid), 2 * rows.reshape(batch, 5, 3) * valid[..., None])


def test_every_shape_is_static_under_xla(gradient_functions):
    hlo = gradient_functions["xla"].experimental_get_compiler_ir(tf.ones([2, 11], tf.bool))("hlo")
    shapes = [line.split("metadata")[0] for line in hlo.splitlines()]
    assert len(shapes) > 100 and not [line for line in shapes if "<=" in line]
