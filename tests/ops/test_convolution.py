"""Gradients of convolutions against TensorFlow's own, whole and in strips."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import convolution
from htc_tf.ops.convolution import conv2d, dilated_conv2d, kernel_gradient


def draw(*shapes):
    random = np.random.default_rng(0)
    return [tf.constant(random.standard_normal(shape)) for shape in shapes]


@pytest.fixture(params=(False, True), ids=("eigen", "onednn"))
def onednn(request, monkeypatch):
    monkeypatch.setattr(convolution, "has_onednn", lambda: request.param)
    return request.param


@pytest.mark.parametrize("side", (1, 3, 5))
@pytest.mark.parametrize("compiled", (False, True))
def test_value_and_gradients_are_tensorflow_s(side, compiled, onednn):
    x, kernel, upstream = draw((2, 6, 5, 3), (side, side, 3, 4), (2, 6, 5, 4))

    def run(convolve, jit_compile=False):
        @tf.function(jit_compile=jit_compile, autograph=False)
        def both(x, kernel):
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = convolve(x, kernel)
            return y, *tape.gradient(y, [x, kernel], upstream)

        return both(x, kernel)

    expected = run(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    for ours, theirs in zip(run(conv2d, compiled), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


# Strips of 1, 2, 3 and 4 of 7 rows, of 45 numbers each: narrower than the margin, and with a remainder or without.
@pytest.mark.parametrize("rows", (1, 2, 3, 4, 7, 9))
@pytest.mark.parametrize("side", (3, 5))
def test_strips_add_up_to_the_whole(rows, side):
    x, upstream = draw((2, 7, 5, 1), (2, 7, 5, 4))
    shape = [side, side, 1, 4]
    whole = kernel_gradient(x, upstream, shape)
    strips = kernel_gradient(x, upstream, shape, large=0, strip=rows * 5 * side**2)
    np.testing.assert_allclose(strips, whole, atol=1e-12)


@pytest.mark.parametrize("dtype, rounding", (("float16", 2**-11), ("bfloat16", 2**-8)))
def test_strips_of_half_precision_are_rounded_once(dtype, rounding):
    x, upstream = (tf.cast(x, dtype) for x in draw((1, 48, 8, 2), (1, 48, 8, 4)))
    shape = [3, 3, 2, 4]
    exact = kernel_gradient(tf.cast(x, tf.float32), tf.cast(upstream, tf.float32), shape)
    strips = kernel_gradient(x, upstream, shape, large=0, strip=8 * 9 * 2)
    assert strips.dtype == dtype
    np.testing.assert_allclose(tf.cast(strips, tf.float32), exact, rtol=rounding, atol=1e-5)


def test_unrolled_strips_of_a_large_map_are_small():
    """P2 of 800 x 1344 is processed in ten strips; a map of unknown size, and one of P3's size, in one."""

    def strips(height, width):
        x = tf.TensorSpec([1, height, width, 256])
        traced = tf.function(
            lambda x, u: kernel_gradient(x, u, [3, 3, 256, 256]), autograph=False
        ).get_concrete_function(x, x)
        return [op.inputs[0].shape for op in traced.graph.get_operations() if op.type == "Conv2DBackpropFilter"]

    assert strips(100, 168) == [[1, 100, 168, 256]] and len(strips(None, None)) == 1
    large = strips(200, 336)
    assert len(large) == 10 and all(shape[1] * shape[2] * 9 * 256 <= 1.1 * convolution._STRIP for shape in large)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_no_gradient_has_explicit_padding(dtype, onednn):
    """oneDNN has no kernel for it, and Eigen's is ten times as slow in bfloat16; on a large map and on a small one."""

    def step(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = conv2d(x, kernel)
        return tape.gradient(y, [x, kernel])

    for height, width in ((200, 336), (14, 14)):
        specs = tf.TensorSpec([1, height, width, 256], dtype), tf.TensorSpec([3, 3, 256, 256], dtype)
        operations = tf.function(step, autograph=False).get_concrete_function(*specs).graph.get_operations()
        gradients = [op for op in operations if op.type.startswith("Conv2DBackprop")]
        assert gradients and all(op.get_attr("padding") != b"EXPLICIT" for op in gradients)
        assert not onednn or {op.get_attr("padding") for op in gradients} == {b"SAME"}


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_gradients_of_half_precision_lose_no_pixels(dtype, monkeypatch):
    """Without oneDNN TensorFlow adds up the pixels in that type: up to 3 % off in bfloat16."""
    monkeypatch.setattr(convolution, "has_onednn", lambda: False)
    tensors = [tf.cast(tf.abs(x), dtype) for x in draw((1, 48, 48, 8), (3, 3, 8, 4), (1, 48, 48, 4))]

    def gradients(convolve, x, kernel, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
        return [tf.cast(gradient, tf.float32) for gradient in tape.gradient(y, [x, kernel], upstream)]

    exact = gradients(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), *[tf.cast(x, tf.float32) for x in tensors])
    for found, expected in zip(gradients(conv2d, *tensors), exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.006 * np.abs(expected).max())


def test_onednn_can_be_turned_off():
    code = "from htc_tf.ops.convolution import has_onednn; print(has_onednn())"
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_a_gpu_has_its_own_gradient(monkeypatch):
    monkeypatch.setattr(convolution, "has_onednn", lambda: False)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"{kind}:0"])
    monkeypatch.setattr(convolution, "_conv2d", None)
    x, kernel = draw((1, 4, 4, 2), (3, 3, 2, 2))
    np.testing.assert_array_equal(conv2d(x, kernel), tf.nn.conv2d(x, kernel, 1, "SAME"))


@pytest.mark.parametrize("dilation", (2, 3))
@pytest.mark.parametrize("compiled", (False, True))
def test_dilation_spreads_the_kernel(dilation, compiled):
    """Equals a convolution with zeros between the taps, value and gradients; on 7 x 5 cells some taps lie outside."""
    x, kernel, upstream = draw((2, 7, 5, 3), (3, 3, 3, 4), (2, 7, 5, 4))

    def spread(x, kernel, dilation):
        side = 2 * dilation + 1
        places = np.eye(side)[::dilation]  # [3, side]
        return tf.nn.conv2d(x, tf.einsum("yi,xj,yxco->ijco", places, places, kernel), 1, "SAME")

    def run(convolve, jit_compile=False):
        @tf.function(jit_compile=jit_compile, autograph=False)
        def both(x, kernel):
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = convolve(x, kernel, dilation)
            return y, *tape.gradient(y, [x, kernel], upstream)

        return both(x, kernel)

    for ours, theirs in zip(run(dilated_conv2d, compiled), run(spread), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
