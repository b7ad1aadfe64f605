"""Deformable convolution: against torchvision's, float64 loops over the taps as in mmcv, and numbers by hand."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops.deformable import deformable_conv2d

SIZE = (5, 6)


def corners(place, size):
    """Returns (cell, weight, derivative of the weight) of the cells around a position, on one axis."""
    low = int(np.floor(place))
    above = place - low
    return [(c, w, d) for c, w, d in ((low, 1 - above, -1.0), (low + 1, above, 1.0)) if 0 <= c < size]


def reference_result(x, offsets, mask, kernel, stride, groups, upstream, dilation=1):
    """Computes the value and the gradients of x, offsets, mask and kernel, tap by tap."""
    _, height, width, channels = x.shape
    side, _, inputs, outputs = kernel.shape
    deform_groups = offsets.shape[-1] // (2 * side**2)
    part = channels // deform_groups
    sampled = np.zeros((*offsets.shape[:3], side, side, channels))
    taps = []
    for b, i, j, d, ky, kx in np.ndindex(*offsets.shape[:3], deform_groups, side, side):
        k = ky * side + kx
        first = 2 * (d * side**2 + k)
        y = i * stride + (ky - side // 2) * dilation + offsets[b, i, j, first]
        z = j * stride + (kx - side // 2) * dilation + offsets[b, i, j, first + 1]
        if -1 < y < height and -1 < z < width:
            of, to = slice(d * part, (d + 1) * part), (b, i, j, ky, kx, slice(d * part, (d + 1) * part))
            taps.append((to, of, d * side**2 + k, first, corners(y, height), corners(z, width)))
            for (r, wy, _), (c, wx, _) in itertools.product(*taps[-1][-2:]):
                sampled[to] += mask[b, i, j, d * side**2 + k] * wy * wx * x[b, r, c, of]

    in_groups = sampled.reshape(*sampled.shape[:-1], groups, inputs)
    kernel_groups = kernel.reshape(side, side, inputs, groups, outputs // groups)
    upstream_groups = upstream.reshape(*upstream.shape[:-1], groups, outputs // groups)
    value = np.einsum("bijyzgc,yzcgo->bijgo", in_groups, kernel_groups).reshape(upstream.shape)
    kernel_gradient = np.einsum("bijyzgc,bijgo->yzcgo", in_groups, upstream_groups).reshape(kernel.shape)
    flowing = np.einsum("bijgo,yzcgo->bijyzgc", upstream_groups, kernel_groups).reshape(sampled.shape)

    x_gradient, offsets_gradient, mask_gradient = (np.zeros(a.shape) for a in (x, offsets, mask))
    for to, of, m, first, rows, columns in taps:
        b, i, j = to[:3]
        for (r, wy, dy), (c, wx, dx) in itertools.product(rows, columns):
            product = x[b, r, c, of] @ flowing[to]
            x_gradient[b, r, c, of] += mask[b, i, j, m] * wy * wx * flowing[to]
            mask_gradient[b, i, j, m] += wy * wx * product
            offsets_gradient[b, i, j, first] += mask[b, i, j, m] * dy * wx * product
            offsets_gradient[b, i, j, first + 1] += mask[b, i, j, m] * wy * dx * product
    return value, x_gradient, offsets_gradient, kernel_gradient, mask_gradient


def draw(stride, groups, deform_groups, side=3, channels=8, outputs=4):
    """Returns x, offsets, mask, kernel, upstream in float32. Some offsets are whole, some lead far outside."""
    random = np.random.default_rng(stride + 10 * groups)
    count = [-(-s // stride) for s in SIZE]
    offsets = 2 * random.standard_normal((2, *count, deform_groups * 2 * side**2))
    choice = random.uniform(size=offsets.shape)
    offsets = np.where(choice < 0.3, np.round(offsets), np.where(choice < 0.33, 1e6 * offsets, offsets))
    offsets[0, 0] = 0  # the first row's upper taps lie at -1, where the gradient is zero
    arrays = (
        random.standard_normal((2, *SIZE, channels)),
        offsets,
        random.uniform(size=(2, *count, deform_groups * side**2)),
        random.standard_normal((side, side, channels // groups, outputs)),
        random.standard_normal((2, *count, outputs)),
    )
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize(
    "version, stride, groups, deform_groups, dilation, compiled",
    [(1, 1, 1, 1, 1, False), (1, 2, 2, 1, 3, True), (2, 1, 4, 2, 1, True), (2, 2, 1, 4, 2, False)],
)
def test_value_and_gradients(version, stride, groups, deform_groups, dilation, compiled):
    x, offsets, mask, kernel, upstream = draw(stride, groups, deform_groups)
    if version == 1:
        mask[:] = 1
    wide = (a.astype(np.float64) for a in (x, offsets, mask, kernel))
    expected = reference_result(*wide, stride, groups, upstream.astype(np.float64), dilation)

    @tf.function(jit_compile=compiled, autograph=False)
    def run(x, offsets, mask, kernel, upstream):
        sources = [x, offsets, kernel, mask][: 3 + (version == 2)]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = deformable_conv2d(x, offsets, mask if version == 2 else None, kernel, stride, groups, dilation)
        return value, *tape.gradient(value, sources, upstream)

    found = run(*map(tf.constant, (x, offsets, mask, kernel, upstream)))
    assert len(found) == 3 + version
    for array, wanted in zip(found, expected, strict=False):
        np.testing.assert_allclose(array, wanted, atol=2e-5 * np.abs(wanted).max())
    assert np.abs(expected[2]).max() > 1 and (expected[2][0, 0, :, 0] == 0).all()


def test_dilation_is_torchvisions(reference):
    arrays = reference("op_deform_conv")
    x, offsets, upstream = (tf.constant(np.moveaxis(arrays[name], 1, -1)) for name in ("x", "offsets", "upstream"))
    kernel = tf.constant(np.transpose(arrays["kernel"], [2, 3, 1, 0]))
    with tf.GradientTape() as tape:
        tape.watch([x, offsets, kernel])
        value = deformable_conv2d(x, offsets, None, kernel, stride=2, dilation=3)
    *maps, kernel_gradient = value, *tape.gradient(value, [x, offsets, kernel], upstream)
    found = [*(tf.transpose(a, [0, 3, 1, 2]) for a in maps), tf.transpose(kernel_gradient, [3, 2, 0, 1])]
    for array, name in zip(found, ("value", "x_gradient", "offsets_gradient", "kernel_gradient"), strict=True):
        np.testing.assert_allclose(array, arrays[name], atol=1e-5 * np.abs(arrays[name]).max())


def test_the_loops_by_differences():
    """Checks the gradients of the loops by finite differences."""
    x, offsets, mask, kernel, upstream = (a.astype(np.float64) for a in draw(2, 2, 2))
    offsets += 0.01 * (offsets == np.round(offsets))  # a whole position has two slopes
    arguments = [x, offsets, kernel, mask]

    def total(x, offsets, kernel, mask):
        return np.sum(reference_result(x, offsets, mask, kernel, 2, 2, upstream)[0] * upstream)

    gradients = reference_result(x, offsets, mask, kernel, 2, 2, upstream)[1:]
    random = np.random.default_rng(0)
    for number, gradient in enumerate(gradients):
        direction = random.standard_normal(gradient.shape)
        ends = [
            total(*(a + step * direction if n == number else a for n, a in enumerate(arguments)))
            for step in (-1e-6, 1e-6)
        ]
        assert (ends[1] - ends[0]) / 2e-6 == pytest.approx(np.sum(gradient * direction), rel=1e-5)


def test_golden_ramp():
    """On the ramp 10 y + x a tap's value shows its position; only one tap of the kernel is not zero."""
    ramp = tf.constant((10.0 * np.arange(4)[:, None] + np.arange(4))[None, ..., None], tf.float32)
    kernel, offsets, mask = np.zeros((3, 3, 1, 1)), np.zeros((1, 4, 4, 18)), np.full((1, 4, 4, 9), 0.5)
    kernel[0, 2] = 1  # up and right: the third tap
    offsets[..., 4], offsets[..., 5] = 1.5, -0.25  # half a cell down, three quarters right
    mask[..., 2] = 2
    value = deformable_conv2d(ramp, *(tf.constant(a, tf.float32) for a in (offsets, mask, kernel)))
    # Below the last row lies 0, and right of the last column.
    expected = 2 * np.array(
        [
            [5.75, 6.75, 7.75, 0.25 * 8],
            [15.75, 16.75, 17.75, 0.25 * 18],
            [25.75, 26.75, 27.75, 0.25 * 28],
            [0.5 * 30.75, 0.5 * 31.75, 0.5 * 32.75, 0.125 * 33],
        ]
    )
    np.testing.assert_allclose(value[0, ..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_do_not_move_make_an_ordinary_convolution(stride):
    x, offsets, _, kernel, _ = draw(stride, 1, 1)
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    np.testing.assert_allclose(
        deformable_conv2d(x, tf.zeros_like(offsets), None, tf.constant(kernel), stride),
        tf.nn.conv2d(padded, kernel, stride, "VALID"),
        atol=1e-4,
    )


def test_layers_of_a_shape_share_their_islands():
    """Whatever their dilation: every island takes up to a second to compile."""
    x, offsets, _, kernel, _ = map(tf.constant, draw(1, 1, 1))

    def functions(*dilations):
        def learn(x, offsets, kernel):
            values = [deformable_conv2d(x, offsets, None, kernel, dilation=dilation) for dilation in dilations]
            return tf.gradients(tf.add_n(values), [x, offsets, kernel])

        graph = tf.function(learn, autograph=False).get_concrete_function(x, offsets, kernel).graph
        return {function.signature.name for function in graph.as_graph_def().library.function}

    assert len(functions(1)) == len(functions(1, 3, 3)) > 0


def test_shapes_may_be_unknown_when_traced_and_types_narrow():
    """In bfloat16, in one trace for all sizes, with the same gradient every time."""
    flat = tf.TensorSpec([None, None, None, 8], tf.bfloat16), tf.TensorSpec([None, None, None, 18], tf.bfloat16)

    @tf.function(input_signature=flat, autograph=False)
    def run(x, offsets):
        kernel = tf.ones([3, 3, 8, 2], tf.bfloat16)
        with tf.GradientTape() as tape:
            tape.watch([x, offsets])
            value = deformable_conv2d(x, offsets, None, kernel)
        return value, *tape.gradient(value, [x, offsets])

    for size in ((1, 1), (6, 5)):
        x, offsets = tf.ones([1, *size, 8], tf.bfloat16), tf.zeros([1, *size, 18], tf.bfloat16)
        first, second = run(x, offsets), run(x, offsets)
        assert {a.dtype for a in first} == {tf.bfloat16} and first[0].shape == [1, *size, 2]
        assert first[0][0, 0, 0, 0] == 8 * min(2, size[0]) * min(2, size[1])
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
