"""Elementary losses: by hand, and against the terms of mmdetection's losses."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import losses
from tests.modes import MODES


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def test_sigmoid_cross_entropy_golden():
    result = losses.sigmoid_cross_entropy(tf.constant([0.0, 0.0, 100.0, -100.0]), tf.constant([0, 1, 1, 1]))
    np.testing.assert_allclose(result, [np.log(2), np.log(2), 0, 100], rtol=1e-6, atol=1e-6)


def test_softmax_cross_entropy_golden():
    logits = tf.constant([[[0.0, 0.0, 0.0], [np.log(2.0), 0.0, 0.0]]])
    result = losses.softmax_cross_entropy(logits, tf.constant([[2, 0]]))
    np.testing.assert_allclose(result, [[np.log(3), np.log(2)]], rtol=1e-6)


def test_smooth_l1_golden():
    difference = tf.constant([0.0, 0.5, -0.5, 1.0, -3.0])
    np.testing.assert_allclose(losses.smooth_l1(difference, tf.zeros([5]), 1.0), [0, 0.125, 0.125, 0.5, 2.5])
    np.testing.assert_allclose(losses.smooth_l1(difference, tf.zeros([5]), 0.25), [0, 0.375, 0.375, 0.875, 2.875])
    np.testing.assert_array_equal(losses.smooth_l1(difference, tf.zeros([5]), 0), [0, 0.5, 0.5, 1, 3])


@pytest.mark.parametrize("beta, slopes", [(1.0, [0, 0.5, -0.5, 1, -1]), (0, [0, 1, -1, 1, -1])])
def test_smooth_l1_gradient(beta, slopes):
    difference = tf.constant([0.0, 0.5, -0.5, 1.0, -3.0])
    with tf.GradientTape() as tape:
        tape.watch(difference)
        loss = losses.smooth_l1(difference, tf.zeros([5]), beta)
    np.testing.assert_allclose(tape.gradient(loss, difference), slopes)


@pytest.mark.parametrize("gamma", [0, 1.0, 1.5, 2])
def test_sigmoid_focal_by_loops(compiled, gamma):
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(4, 50)) * 4, random.integers(0, 2, (4, 50))
    found = compiled(lambda x, y: losses.sigmoid_focal(x, y, 0.3, gamma))(tf.constant(logits), tf.constant(labels))
    p_t = np.where(labels, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(logits)))
    wanted = -np.where(labels, 0.3, 0.7) * (1 - p_t) ** gamma * np.log(p_t)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0, 1.0, 2.0])
def test_focal_losses_of_certain_logits_have_a_finite_gradient(compiled, gamma):
    logits, labels = tf.constant([[200.0, -200.0], [-200.0, 200.0]]), tf.constant([0, 0])

    def slopes(logits):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            softmax = losses.softmax_focal(logits, labels, gamma)
            sigmoid = losses.sigmoid_focal(logits[0], labels, 0.25, gamma)
        return tape.gradient(softmax, logits), tape.gradient(sigmoid, logits)

    softmax, sigmoid = compiled(slopes)(logits)
    np.testing.assert_allclose(softmax, [[0, 0], [-1, 1]])  # right, and wrong by as much as possible
    np.testing.assert_allclose(sigmoid, [[0.75, 0], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, half = tf.constant([[3.0, -2.0]]), tf.constant([[3.0, -2.0]], dtype)
    labels = tf.constant([[1, 0]])
    for loss in (losses.sigmoid_cross_entropy, lambda a, b: losses.smooth_l1(a, b, 1.0)):
        assert loss(half, labels).dtype == tf.float32
        np.testing.assert_array_equal(loss(half, labels), loss(logits, labels))
    result = losses.softmax_cross_entropy(half, labels[:, 0])
    np.testing.assert_array_equal(result, losses.softmax_cross_entropy(logits, labels[:, 0]))


def test_box_losses_equal_mmdetection(reference, compiled, compare):
    arrays = reference("op_losses")
    classes = compiled(losses.softmax_cross_entropy)(arrays["box_cls"], arrays["box_labels"])
    compare("box head: class loss", np.mean(classes), arrays["box_loss_cls"], rtol=1e-6)
    boxes = compiled(lambda a, b: losses.smooth_l1(a, b, 1.0))(arrays["box_reg"], arrays["box_tgt"]).numpy()
    positive = arrays["box_labels"] < 80
    compare("box head: box loss", boxes[positive].sum() / len(positive), arrays["box_loss_bbox"], rtol=1e-6)


def test_mask_loss_equals_mmdetection(reference, compiled, compare):
    arrays = reference("op_losses")
    target = np.unpackbits(arrays["mask_target"], axis=-1)[..., :28]
    result = compiled(losses.sigmoid_cross_entropy)(arrays["mask_logits"], target)
    compare("mask loss", np.mean(result), arrays["mask_loss"][0], rtol=1e-6)


def test_semantic_loss_equals_mmdetection(reference, compiled, compare):
    arrays = reference("op_losses")
    logits, labels = arrays["sem_logits"][0].transpose(1, 2, 0), arrays["sem_labels_down"][0, 0].astype(np.int32)
    counted = labels != 255
    result = compiled(losses.softmax_cross_entropy)(logits, np.where(counted, labels, 0)).numpy()
    compare("semantic loss", 0.2 * (result * counted).mean(), arrays["sem_loss"], rtol=1e-6)


def test_rpn_losses_equal_mmdetection(reference, compiled, compare):
    arrays = reference("op_losses")
    logits = arrays["rpn_cls"][0].transpose(1, 2, 0).reshape(-1)
    deltas = arrays["rpn_reg"][0].transpose(1, 2, 0).reshape(-1, 4)
    is_object, weight = arrays["rpn_labels"][0] == 0, arrays["rpn_label_weights"][0]
    sampled = arrays["rpn_avg_factor"]

    scores = compiled(losses.sigmoid_cross_entropy)(logits, is_object).numpy()
    compare("RPN: class loss", (scores * weight).sum() / sampled, arrays["rpn_loss_cls"], rtol=1e-6)
    boxes = compiled(lambda a, b: losses.smooth_l1(a, b, 1 / 9))(deltas, arrays["rpn_tgt"][0]).numpy()
    compare("RPN: box loss", boxes[is_object & (weight > 0)].sum() / sampled, arrays["rpn_loss_bbox"], rtol=1e-6)
