"""RoIAlign, both implementations: against mmcv's arrays, numbers computed by hand, and float64 matrices."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.ops import roi_align_crop, roi_align_xla
from htc_tf.ops.roi_align import levels, prepare, roi_align
from tests.slow import slow

IMPLEMENTATIONS = ("crop_and_resize", "xla")


def pool(maps, strides, boxes, level, size, ratio, implementation, upstream=None, **function):
    """Returns the features of roi_align, and the maps' gradients under `upstream`."""
    level = tf.constant(level, tf.int32)

    def run(maps, boxes, upstream):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            prepared = prepare(maps, implementation)
            pooled = roi_align(prepared, strides, boxes, level, size, ratio, implementation)
        return pooled, None if upstream is None else tape.gradient(pooled, maps, upstream)

    maps = [tf.constant(m, tf.float32) for m in maps]
    pooled, gradients = tf.function(run, autograph=False, **function)(maps, tf.constant(boxes, tf.float32), upstream)
    return pooled.numpy(), gradients and [g.numpy() for g in gradients]


def replace_pieces(monkeypatch, **fields):
    monkeypatch.setattr(roi_align_xla, "_ON_CPU", roi_align_xla._ON_CPU._replace(**fields))


def interpolation(start, end, size, bins, samples):
    """Returns one axis of RoIAlign as a float64 matrix [bins, size]; `samples` 0 is adaptive."""
    samples = samples or int(np.ceil((end - start) / bins))
    weights = np.zeros((bins, size))
    for b in range(bins):
        for s in range(samples):
            position = start - 0.5 + (b + (s + 0.5) / samples) * (end - start) / bins
            if -1 <= position <= size:
                position = min(max(position, 0.0), size - 1.0)
                low = int(position)
                weights[b, low] += (1 - (position - low)) / samples
                weights[b, min(low + 1, size - 1)] += (position - low) / samples
    return weights


def reference_result(maps, strides, boxes, level, size, ratio, upstream):
    """Computes RoIAlign and its gradient by dense float64 matrices, RoI by RoI."""
    pooled = np.zeros((*level.shape, size, size, maps[0].shape[-1]))
    gradients = [np.zeros(m.shape) for m in maps]
    for image, roi in np.ndindex(level.shape):
        which = level[image, roi]
        y1, x1, y2, x2 = boxes[image, roi].astype(np.float64) / strides[which]
        _, height, width, _ = maps[which].shape
        rows, columns = interpolation(y1, y2, height, size, ratio), interpolation(x1, x2, width, size, ratio)
        pooled[image, roi] = np.einsum("ph,qw,hwc->pqc", rows, columns, maps[which][image])
        gradients[which][image] += np.einsum("ph,qw,pqc->hwc", rows, columns, upstream[image, roi])
    return pooled, gradients


# XLA compiles for seconds. Both implementations have the same gradient, so that one of them shows it.
CROP, XLA = "crop_and_resize", "xla"
BOTH_RATIOS = ((0, XLA), (2, CROP), *slow((0, CROP), (2, XLA)))


@pytest.mark.parametrize(
    "size, strides, ratio, implementation",
    [
        *((7, (4, 8, 32), *case) for case in ((0, CROP), (0, XLA), (2, CROP))),
        *((14, (4, 32), ratio, CROP) for ratio in (0, 2)),
        *slow((7, (4, 8, 32), 2, XLA), (14, (4, 32), 0, XLA), (14, (4, 32), 2, XLA)),
    ],
)
def test_equals_mmcv(reference, compare, size, strides, ratio, implementation, monkeypatch):
    if size == 14:
        replace_pieces(monkeypatch, taps=(5,))  # less to compile; size 7 uses the real numbers
    arrays = reference("op_roi_align")
    rois = np.concatenate([arrays[f"rois_s{stride}"] for stride in strides])
    image, rows, level = rois[:, 0].astype(int), np.arange(len(rois)), np.repeat(np.arange(len(strides)), 24)
    names = [f"s{stride}_o{size}_r{ratio}" for stride in strides]

    def channels_last(name):
        return np.concatenate([arrays[f"{name}_{case}"] for case in names]).transpose(0, 2, 3, 1)

    maps = [arrays["feat"].transpose(0, 2, 3, 1)] * len(strides)
    upstream = None
    if size == 7:
        # Every RoI is pooled from both images; only its own image has a gradient.
        upstream = np.zeros((2, len(rois), size, size, maps[0].shape[-1]), np.float32)
        upstream[image, rows] = channels_last("gout")
    boxes, level = np.stack([rois[:, [2, 1, 4, 3]]] * 2), np.stack([level] * 2)
    pooled, gradients = pool(maps, strides, boxes, level, size, ratio, implementation, upstream)

    case = f"{implementation}, {size} x {size}, sampling ratio {ratio}"
    compare(case, pooled[image, rows], channels_last("out"), rtol=1e-4)
    if upstream is not None:
        compare(f"{case}: gradient of the features", np.concatenate(gradients), channels_last("gin"), rtol=1e-4)


@pytest.mark.parametrize("on_gpu", (False, True))
@pytest.mark.parametrize("ratio", (0, 2))
def test_equals_float64_matrices_on_a_pyramid(ratio, on_gpu, monkeypatch):
    """Random RoIs, and long thin ones with up to 23 taps; the xla implementation inside jit_compile.

    The form that a GPU runs is compiled for the CPU here.
    """
    replace_pieces(monkeypatch, taps=(3,))  # many blocks of taps, little to compile
    small = roi_align_xla._Pieces(rois=16, taps=(3,), bins=16 * 9, block=(2, 3), unrolled=False)
    monkeypatch.setattr(roi_align_xla, "_ON_GPU", small)
    monkeypatch.setattr(roi_align_xla, "has_gpu", lambda: on_gpu)
    monkeypatch.setattr(roi_align_crop, "_CHUNK", 300)  # many chunks
    random = np.random.default_rng(ratio)
    strides, size = (4, 8, 16, 32), 3
    channels = 3 + on_gpu  # of another shape, so traced again
    sizes = [(2, 192 // stride, 256 // stride, channels) for stride in strides]
    maps = [random.standard_normal(shape).astype(np.float32) for shape in sizes]
    center, side = random.uniform(0, 256, (2, 40, 2)), np.exp(random.uniform(0, 6, (2, 40, 2)))
    boxes = np.concatenate([center - side / 2, center + side / 2], -1)
    boxes[:, :4] = [[0, 0, 192, 256], [3, 1, 9, 250], [5, 90, 190, 97], [-30, -40, 300, 300]]
    boxes = boxes.astype(np.float32)
    level = levels(tf.constant(boxes), canonical_scale=16.0).numpy()
    level[:, :4] = 0
    assert set(level.flat) == {0, 1, 2, 3}
    upstream = random.standard_normal((2, 40, size, size, channels)).astype(np.float32)

    expected, expected_gradients = reference_result(maps, strides, boxes, level, size, ratio, upstream)
    for implementation in IMPLEMENTATIONS:
        compiled = implementation == "xla"
        results = pool(maps, strides, boxes, level, size, ratio, implementation, upstream, jit_compile=compiled)
        np.testing.assert_allclose(results[0], expected, atol=1e-4 * np.abs(expected).max())
        for gradient, wanted in zip(results[1], expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("ratio", (0, 2))
def test_golden_ramp(ratio, implementation, monkeypatch):
    """On the ramp 10 y + x a sample's value shows its position: cell k's center is at k + 1/2, edges are repeated."""
    replace_pieces(monkeypatch, taps=(3,))
    ramp = (10.0 * np.arange(5)[:, None] + np.arange(5))[None, ..., None]
    boxes = [
        [2, 2, 8, 8],  # bins of 1.5 cells, the mean of two samples each, around 1.25 and 2.75
        [0, 0, 4, 4],  # bins of one cell: samples at 0 and 1, or at -.25, .25 and .75, 1.25
        [6, 6, 10, 10],  # the same at the other end: 3 and 4, or 2.75, 3.25 and 3.75, 4.25
        [-8, -8, -4, -4],  # outside by more than a cell
        [6, 2, 6, 6],  # no height, at 2.5
        [4, 4, 4, 4],  # a point, at 1.5
        [8, 8, 4, 4],  # inverted: becomes its first corner, at 3.5
    ]
    pooled, _ = pool([ramp], [2], [boxes], [[0] * len(boxes)], 2, ratio, implementation)
    ends = {0: (0, 1, 3, 4), 2: (0.125, 1, 3, 3.875)}[ratio]
    expected = [
        [[13.75, 15.25], [28.75, 30.25]],
        [[11 * ends[0], 10 * ends[0] + ends[1]], [10 * ends[1] + ends[0], 11 * ends[1]]],
        [[11 * ends[2], 10 * ends[2] + ends[3]], [10 * ends[3] + ends[2], 11 * ends[3]]],
        np.zeros((2, 2)),
        np.array([[26, 27], [26, 27]]) * (ratio == 2),
        np.full((2, 2), 16.5) * (ratio == 2),
        np.full((2, 2), 38.5) * (ratio == 2),
    ]
    np.testing.assert_allclose(pooled[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("implementation", [XLA, *slow(CROP)])
def test_oversampling_equals_averaging_a_larger_result(implementation, monkeypatch):
    replace_pieces(monkeypatch, taps=(5,))
    generator = np.random.default_rng(0)
    feature_map = generator.standard_normal((1, 24, 30, 3)).astype("f4")
    # From a fraction of a cell to beyond the whole map; and an empty one.
    sides = np.concatenate([[0.0], np.geomspace(0.4, 40, 11)])
    first = generator.uniform(-2, 20, (12, 2))
    boxes = np.concatenate([first, first + sides[:, None] * (1.0, 0.6)], axis=1)[None].astype("f4")
    upstream = generator.standard_normal((1, 12, 3, 3, 3)).astype("f4")

    @tf.function(autograph=False)
    def run(feature_map):
        results = []
        for size, oversampling in ((6, 1), (3, 2)):
            with tf.GradientTape() as tape:
                tape.watch(feature_map)
                prepared = prepare([feature_map], implementation)
                level = tf.zeros([1, 12], tf.int32)
                pooled = roi_align(prepared, [1], boxes, level, size, 0, implementation, oversampling)
                if oversampling == 1:
                    pooled = tf.reduce_mean(tf.reshape(pooled, [1, 12, 3, 2, 3, 2, 3]), [3, 5])
            results.append((pooled, tape.gradient(pooled, feature_map, upstream)))
        return results

    averaged, at_once = run(tf.constant(feature_map))
    for a, b in zip(averaged, at_once, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)


@pytest.mark.parametrize("ratio, implementation", BOTH_RATIOS)
def test_no_rois(ratio, implementation):
    maps = [np.ones((2, 6, 5, 3)), np.ones((2, 3, 3, 3))]
    upstream = np.zeros((2, 0, 7, 7, 3), np.float32)
    pooled, gradients = pool(maps, (4, 8), np.zeros((2, 0, 4)), np.zeros((2, 0)), 7, ratio, implementation, upstream)
    assert pooled.shape == (2, 0, 7, 7, 3)
    assert [g.shape for g in gradients] == [m.shape for m in maps] and not any(g.any() for g in gradients)


@pytest.mark.parametrize("implementation", [CROP, *slow(XLA)])
def test_shapes_may_be_unknown_when_traced(implementation):
    """As in a served model: one trace for all image sizes and numbers of RoIs; maps of one cell, in bfloat16."""

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 2], tf.bfloat16), tf.TensorSpec([None, None, 4])],
        autograph=False,
    )
    def run(feature_map, boxes):
        with tf.GradientTape() as tape:
            tape.watch([feature_map, boxes])
            level = tf.zeros(tf.shape(boxes)[:2], tf.int32)
            pooled = roi_align(prepare([feature_map], implementation), [4], boxes, level, 3, 2, implementation)
        gradient, boxes_gradient = tape.gradient(pooled, [feature_map, boxes])
        assert boxes_gradient is None
        return pooled, gradient

    for batch, height, width, number in ((1, 1, 1, 2), (2, 4, 3, 5)):
        boxes = tf.tile([[[0.0, 0.0, 4.0, 4.0]]], [batch, number, 1])
        pooled, gradient = run(tf.fill([batch, height, width, 2], tf.constant(2.0, tf.bfloat16)), boxes)
        np.testing.assert_allclose(pooled, np.full((batch, number, 3, 3, 2), 2.0), atol=1e-5)
        # The whole upstream gradient arrives in the map, including that of repeated edges.
        assert gradient.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.reduce_sum(tf.cast(gradient[0, ..., 0], tf.float32)), 9 * number, rtol=0.02)


@pytest.mark.parametrize("ratio, implementation", BOTH_RATIOS)
def test_gradient_is_the_same_every_time(ratio, implementation, monkeypatch):
    """A thousand RoIs on one spot, several threads: additions to the same cells, always in the same order."""
    replace_pieces(monkeypatch, taps=(3,))  # less to compile
    random = np.random.default_rng(0)
    maps, upstream = [np.ones((1, 8, 8, 128))], random.standard_normal((1, 1000, 7, 7, 128)).astype(np.float32)
    arguments = maps, [4], np.full((1, 1000, 4), [3, 4, 25, 26.0]), np.zeros((1, 1000)), 7, ratio, implementation
    first, second, third = (pool(*arguments, upstream)[1][0] for _ in range(3))
    assert np.abs(first).max() > 1
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_levels(reference, compare):
    arrays = reference("op_roi_levels")
    boxes = arrays["rois"][:, [2, 1, 4, 3]]
    compare("level of a RoI", levels(tf.constant(boxes)), arrays["level"])


def test_levels_double_at_112_pixels():
    boxes = [[0, 0, side, side] for side in (0, 56, 111.9, 112, 223.9, 224, 447.9, 448, 5000)]
    np.testing.assert_array_equal(levels(tf.constant(boxes, tf.float32)), [0, 0, 0, 1, 1, 2, 2, 3, 3])


def test_unknown_implementation():
    with pytest.raises(UserError, match='"crop_and_resize" or "xla"'):
        prepare([tf.zeros([1, 2, 2, 1])], "cuda")


def test_stages_with_equal_shapes_share_a_trace():
    functions, counts = (roi_align_crop._pool_levels, roi_align_crop._gradients), []
    for edge in (8.0, 20.0):
        boxes = [[[0.0, 0.0, edge, edge], [4.0, 4.0, 16.0, 16.0]]]
        upstream = tf.ones([1, 2, 3, 3, 5])
        pool([np.ones((1, 8, 8, 5))], [4], boxes, [[0, 0]], 3, 2, "crop_and_resize", upstream)
        counts.append([function.experimental_get_tracing_count() for function in functions])
    assert counts[0] == counts[1]
