"""IoU to the last bit, encode and decode as inverses and equal to mmdetection, padding without NaN."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import boxes
from tests.modes import MODES


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def yxyx(array):
    """Converts the reference's x, y order to y, x, for boxes and deltas alike."""
    return tf.constant(array[..., [1, 0, 3, 2]])


def random_boxes(*shape, seed=0):
    random = np.random.RandomState(seed)
    first = random.uniform(-50, 400, [*shape, 2])
    size = np.exp(random.normal(4, 1, [*shape, 2]))
    return tf.constant(np.concatenate([first, first + size], axis=-1), tf.float32)


def test_area():
    np.testing.assert_array_equal(boxes.area(tf.constant([[1.0, 2.0, 4.0, 7.0], [3.0, 3.0, 3.0, 9.0]])), [15.0, 0.0])


def test_iou_golden(compiled):
    a = tf.constant([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = tf.constant([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [0.0, 2.0, 2.0, 4.0], [0.0, 0.0, 1.0, 4.0]])
    np.testing.assert_array_equal(compiled(boxes.iou)(a, b), np.float32([[1, 1 / 7, 0, 1 / 3], [0, 0, 0, 0]]))


def test_iou_of_empty_and_inverted_boxes_is_zero(compiled):
    odd = tf.constant([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 1.0, 9.0], [5.0, 5.0, 1.0, 1.0]])
    whole = tf.constant([[0.0, 0.0, 10.0, 10.0]])
    np.testing.assert_array_equal(compiled(boxes.iou)(odd, whole), np.zeros([3, 1]))
    np.testing.assert_array_equal(compiled(boxes.iou)(odd, odd), np.zeros([3, 3]))


def test_iou_broadcasts_leading_axes():
    a, b = random_boxes(6), random_boxes(3, 4, seed=1)
    result = boxes.iou(a, b)
    assert result.shape == [3, 6, 4]
    np.testing.assert_array_equal(result[2], boxes.iou(a, b[2]))


def test_generalized_iou_golden(compiled):
    cases = [  # boxes, IoU, share of the enclosing box that neither covers
        ([0, 0, 10, 10], [0, 0, 10, 10], 1, 0),
        ([0, 0, 10, 10], [0, 5, 10, 15], 1 / 3, 0),
        ([0, 0, 10, 10], [5, 5, 15, 15], 25 / 175, 50 / 225),
        ([0, 0, 10, 10], [0, 30, 10, 40], 0, 0.5),
        ([0, 0, 1, 1], [9999, 9999, 10000, 10000], 0, 1 - 2e-8),
        ([0, 0, 10, 10], [3, 3, 3, 3], 0, 0),  # a point inside
        ([0, 0, 10, 10], [10, 10, 5, 5], 0, 0),  # inverted: its area is 0
        ([4, 4, 4, 4], [4, 4, 4, 4], 0, 0),
        ([4, 4, 4, 4], [6, 6, 6, 6], 0, 1),
    ]
    a, b = (tf.constant([case[side] for case in cases], tf.float32) for side in (0, 1))
    wanted = [iou - uncovered for _, _, iou, uncovered in cases]
    np.testing.assert_allclose(compiled(boxes.generalized_iou)(a, b), wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(compiled(boxes.generalized_iou)(b[None], a[None]), [wanted], rtol=1e-6, atol=1e-7)


def test_generalized_iou_is_at_most_iou(compiled):
    a, b = random_boxes(40), random_boxes(40, seed=1)
    result, iou = compiled(boxes.generalized_iou)(a, b).numpy(), np.diag(boxes.iou(a, b))
    assert (result <= iou + 1e-6).all() and (result > -1).all() and (result < iou - 0.01).any()


def test_iou_equals_mmdetection_to_the_last_bit(reference, compiled, compare):
    arrays = reference("op_assign_sample")
    for case in ("", "lq_"):
        result = compiled(boxes.iou)(yxyx(arrays[f"{case}gts"]), yxyx(arrays[f"{case}priors"]))
        compare("IoU", result, arrays[f"{case}iou"])


def test_iou_rounds_the_same_compiled_or_not():
    # Without the maximum of the areas 2,306 of these 150,000 differ on a CPU.
    a, b = random_boxes(3000), random_boxes(50, seed=1)
    np.testing.assert_array_equal(boxes.iou(a, b), tf.function(boxes.iou, jit_compile=True, autograph=False)(a, b))


def test_clip(compiled):
    given = tf.constant([[[-5.0, 3.0, 40.0, 90.0]], [[-5.0, 3.0, 40.0, 90.0]]])
    sizes = tf.constant([[30.0, 80.0], [50.0, 60.0]])
    expected = [[[0, 3, 30, 80]], [[0, 3, 40, 60]]]
    np.testing.assert_array_equal(compiled(boxes.clip)(given, sizes), expected)
    np.testing.assert_array_equal(boxes.clip(given[:, :, None], sizes)[:, :, 0], expected)


def test_encode_golden():
    # Center (20, 40) to (22, 35); height 20 to 40, width 40 to 20.
    deltas = boxes.encode([[2.0, 25.0, 42.0, 45.0]], [[10.0, 20.0, 30.0, 60.0]], (0.1, 0.1, 0.2, 0.2))
    np.testing.assert_allclose(deltas, [[1.0, -1.25, np.log(2) / 0.2, -np.log(2) / 0.2]], rtol=1e-6)


def test_target_stds_are_in_the_order_of_the_box():
    reference, target_stds = tf.constant([[0.0, 0.0, 10.0, 10.0]]), (0.1, 0.2, 0.3, 0.4)
    decoded = boxes.decode([[1.0, 1.0, 1.0, 1.0]], reference, target_stds)
    center, size = np.array([6, 7]), 10 * np.exp([0.3, 0.4])
    np.testing.assert_allclose(decoded, [[*(center - size / 2), *(center + size / 2)]], rtol=1e-5)
    np.testing.assert_allclose(boxes.encode(decoded, reference, target_stds), [[1, 1, 1, 1]], rtol=1e-5)


def test_decode_inverts_encode(compiled):
    wanted, reference, target_stds = random_boxes(2, 100), random_boxes(2, 100, seed=1), (0.05, 0.05, 0.1, 0.1)
    round_trip = compiled(lambda a, b: boxes.decode(boxes.encode(a, b, target_stds), b, target_stds))(wanted, reference)
    np.testing.assert_allclose(round_trip, wanted, atol=1e-3)


def test_encode_of_padding_is_zero(compiled):
    padding, box = [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 30.0, 40.0]
    flat, inverted = [1.0, 2.0, 1.0, 40.0], [30.0, 2.0, 1.0, 40.0]
    a = tf.constant([padding, padding, box, flat, box, inverted])
    b = tf.constant([padding, box, padding, box, inverted, box])
    np.testing.assert_array_equal(compiled(boxes.encode)(a, b, (1.0, 1.0, 1.0, 1.0)), np.zeros([6, 4]))


def test_encode_of_padding_has_finite_gradients():
    given = tf.zeros([1, 4])
    with tf.GradientTape() as tape:
        tape.watch(given)
        deltas = boxes.encode(given, given, (1.0, 1.0, 1.0, 1.0))
    np.testing.assert_array_equal(tape.gradient(deltas, given), np.zeros([1, 4]))


def test_decode_limits_the_change_of_size(compiled):
    decoded = compiled(boxes.decode)([[0.0, 0.0, 1e4, -1e4]], [[0.0, 0.0, 16.0, 16.0]], (1.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(decoded, [[8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128]], rtol=1e-5)


@pytest.mark.parametrize("target_stds", range(4))
def test_coder_equals_mmdetection(reference, compiled, compare, target_stds):
    arrays = reference("op_box_coder")
    priors, truth, deltas = (yxyx(arrays[name]) for name in ("priors", "gts", "deltas"))
    # The reference's stds are in the order x, y, w, h, with x = y and w = h.
    numbers = tuple(arrays[f"stds_{target_stds}"])
    encoded = compiled(lambda a, b: boxes.encode(a, b, numbers))(truth, priors)
    compare("encode: deltas", encoded, yxyx(arrays[f"encode_{target_stds}"]), rtol=1e-5)
    decoded = compiled(lambda a, b: boxes.decode(a, b, numbers))(deltas, priors)
    compare("decode: pixels", decoded, yxyx(arrays[f"decode_noclip_{target_stds}"]), rtol=1e-5)
    sizes = tf.constant(arrays["max_shape"][None], tf.float32)
    clipped = compiled(lambda a, b: boxes.decode(a, b, numbers, sizes))(deltas[None], priors[None])
    compare("decode, clipped to the image: pixels", clipped[0], yxyx(arrays[f"decode_{target_stds}"]), rtol=1e-5)


def test_flip():
    given = tf.constant([[1.0, 2.0, 3.0, 10.0]])
    np.testing.assert_array_equal(boxes.flip(given, 50), [[1, 40, 3, 48]])
    np.testing.assert_array_equal(boxes.flip(boxes.flip(given, 50), 50), given)
