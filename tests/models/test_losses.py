"""Focal, GIoU and boundary losses: by hand, against loops in NumPy, and bound to HTCLoss."""

import math

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import addons, config
from htc_tf.errors import UserError
from htc_tf.models import losses
from htc_tf.models.htc_loss import HTCLoss
from htc_tf.ops import losses as loss_ops
from htc_tf.ops.masks import mask_targets
from htc_tf.structures import GroundTruth, RoIs, StageOutput
from tests.modes import MODES

STDS = (0.1, 0.1, 0.2, 0.2)
random = np.random.RandomState(3)


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def slope(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x).numpy()


def test_focal_by_hand(compiled):
    logits = np.log(np.float32([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5], [1e-30, 1, 1e-30]]))[None]
    labels = tf.constant([[0, 1, 1]])
    found = compiled(losses.FocalLoss(gamma=2.0, weight=3.0))(tf.constant(logits), labels)
    wanted = [-3 * 0.1**2 * math.log(0.9), -3 * 0.7**2 * math.log(0.3), 0]
    np.testing.assert_allclose(found, [wanted], rtol=1e-5)
    np.testing.assert_allclose(
        losses.FocalLoss(gamma=0)(logits, labels), loss_ops.softmax_cross_entropy(logits, labels), rtol=1e-6
    )
    for gamma in (0, 1.0, 1.5, 2.0):
        assert np.isfinite(slope(lambda x, gamma=gamma: losses.FocalLoss(gamma)(x, labels), logits)).all()


@pytest.mark.usefixtures("addons_or_ours")
def test_sigmoid_focal_by_hand(compiled):
    probabilities, labels = np.float32([[0.9, 0.2, 0.7, 0.5]]), np.float32([[1, 0, 0, 1]])
    found = compiled(losses.SigmoidFocalLoss(weight=2.0))(
        tf.constant(np.log(probabilities / (1 - probabilities))), labels
    )
    wanted = [
        -2 * alpha * (1 - p) ** 2 * math.log(p)
        for alpha, p in ((0.25, 0.9), (0.75, 0.8), (0.75, 0.3), (0.25, 0.5))
    ]  # fmt: skip
    np.testing.assert_allclose(found, [wanted], rtol=1e-5)
    assert losses.SigmoidFocalLoss()(tf.constant([[-200.0, 200.0]]), tf.constant([[0, 1]])).numpy().tolist() == [[0, 0]]
    assert np.isfinite(slope(lambda x: losses.SigmoidFocalLoss()(x, tf.constant([0, 1])), [-200.0, 200.0])).all()


@pytest.mark.parametrize("kind", [losses.FocalLoss, losses.SigmoidFocalLoss])
def test_gammas_with_unbounded_gradients_are_refused(kind):
    for gamma in (0.5, -1, float("nan")):
        with pytest.raises(UserError, match=rf"^{kind.__name__}\.gamma = {gamma}"):
            kind(gamma=gamma)


def giou(a, b):
    height, width = (max(0, min(a[2 + i], b[2 + i]) - max(a[i], b[i])) for i in (0, 1))
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - height * width
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return height * width / union - (around - union) / around


@pytest.mark.usefixtures("addons_or_ours")
@pytest.mark.parametrize("batch, boxes", [(1, 1), (1, 5), (3, 5)])
def test_giou_of_decoded_boxes(compiled, batch, boxes):
    starts = random.rand(batch, boxes, 2) * 40
    reference = np.concatenate([starts, starts + 5 + random.rand(batch, boxes, 2) * 30], -1).astype(np.float32)
    wanted = reference[:, ::-1].copy()
    wanted[:, 0] = reference[:, 0] + 1
    deltas = random.randn(batch, boxes, 4).astype(np.float32)
    tensors = [tf.constant(x) for x in (deltas, reference, wanted)]
    found = compiled(lambda deltas, start, end: losses.GIoULoss(2.0)(deltas, start, STDS, end))(*tensors)
    decoded = losses.box_ops.decode(deltas, reference, STDS).numpy()
    expected = [[2 - 2 * giou(*pair) for pair in zip(*rows, strict=True)] for rows in zip(decoded, wanted, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("addons_or_ours")
def test_giou_of_empty_boxes_is_finite():
    nothing = np.zeros([1, 2, 4], np.float32)
    box = np.float32([[[1, 1, 3, 3], [0, 0, 0, 0]]])
    for reference, wanted in ((nothing, box), (box, nothing), (nothing, nothing)):
        assert np.isfinite(losses.GIoULoss()(nothing, reference, STDS, wanted)).all()
        assert np.isfinite(slope(lambda x, r=reference, w=wanted: losses.GIoULoss()(x, r, STDS, w), nothing)).all()


@pytest.mark.usefixtures("addons_or_ours")
def test_giou_of_disjoint_boxes_has_a_gradient():
    reference, wanted = tf.constant([[[0.0, 0, 10, 10]]]), tf.constant([[[0.0, 30, 10, 40]]])
    zero = np.zeros([1, 1, 4], np.float32)
    loss = losses.GIoULoss(1.0)(zero, reference, STDS, wanted)
    np.testing.assert_allclose(loss, [[1.5]], rtol=1e-6)  # 1 + (400 - 200) / 400
    assert slope(lambda x: losses.GIoULoss()(x, reference, STDS, wanted), zero)[0, 0, 1] < 0


def values_and_slopes(loss, inputs, way):
    """Returns a loss and its gradient for the first input, compiled as `way` says."""

    def both(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs[0])
            y = loss(*inputs)
        return y, tape.gradient(y, inputs[0])

    # All inputs are arguments: TensorFlow would fold constants into others, and round otherwise.
    return [part.numpy() for part in MODES[way](both)(*map(tf.constant, inputs))]


def with_and_without(package, monkeypatch, loss, inputs, way):
    """Returns the same of tensorflow-addons' loss and of ours."""
    found = []
    for choice in (package, None):
        monkeypatch.setattr(addons, "load", lambda choice=choice: choice)
        found.append(values_and_slopes(loss, inputs, way))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("gamma", [0, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("way", MODES)
def test_sigmoid_focal_is_that_of_tensorflow_addons(addons_package, monkeypatch, way, gamma, dtype):
    """To the last bit under XLA; TensorFlow's own graph optimizer reorders the products of one of them."""
    draw = np.random.default_rng(0)
    logits = np.concatenate([draw.normal(size=3000) * 5, np.repeat([0, 17, -17, 90, -90, 200, -200], 2)])
    labels = np.concatenate([draw.integers(0, 2, 3000), np.tile([0, 1], 7)])
    inputs = tf.cast(logits, dtype), labels
    theirs, ours = with_and_without(addons_package, monkeypatch, losses.SigmoidFocalLoss(0.3, gamma, 1.3), inputs, way)
    # Gradients near 0 are differences of larger numbers, so an absolute error is allowed: one rounding of the dtype.
    bounds = [{"rtol": 1e-6}, {"rtol": 1e-6, "atol": {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]}]
    for a, b, bound in zip(theirs, ours, bounds, strict=True):
        assert a.dtype == b.dtype and np.isfinite(a.astype(np.float32)).all() and a.any()
        if way == "xla":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), **bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("way", MODES)
def test_giou_is_tensorflow_addons_to_the_last_bit(addons_package, monkeypatch, way, dtype):
    """Boxes that overlap, touch, lie far apart, are equal, or are empty on either side or on both."""
    draw, count = np.random.default_rng(1), 2000
    starts = draw.uniform(0, 100, (2, count, 2))
    reference, wanted = np.concatenate([starts, starts + draw.uniform(-2, 40, (2, count, 2))], -1).astype(np.float32)
    wanted[:400] = reference[:400]
    wanted[400:500], reference[500:600] = 0, 0
    wanted[600:700], reference[600:700] = 0, 0
    wanted[700:800] += 1e5
    wanted[800:900] = reference[800:900]
    wanted[800:900, 1::2] += 10
    reference[900:1200], wanted[900:1200] = reference[900:1200].round(), wanted[900:1200].round()
    deltas = draw.normal(size=(count, 4)).astype(dtype)
    deltas[:1200:2] = 0

    def loss(deltas, reference, wanted):
        return losses.GIoULoss()(deltas, reference, STDS, wanted)

    theirs, ours = with_and_without(addons_package, monkeypatch, loss, (deltas, reference, wanted), way)
    for a, b in zip(theirs, ours, strict=True):
        assert a.dtype == b.dtype and np.isfinite(a).all() and a.any()
        np.testing.assert_array_equal(a, b)


def square(top, left, side=10):
    mask = np.zeros([28, 28], np.float32)
    mask[top : top + side, left : left + side] = 1
    return mask


def boundary_by_loops(probabilities, target, tolerance):
    def widen(cells, reach):
        return np.array(
            [
                [cells[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].max() for x in range(28)]
                for y in range(28)
            ]
        )

    found, true = (widen(1 - mask, 1) - (1 - mask) for mask in (probabilities, target))
    precision = (found * widen(true, tolerance)).sum() / found.sum()
    recall = (true * widen(found, tolerance)).sum() / true.sum()
    return 1 - 2 * precision * recall / (precision + recall)


def test_boundary(compiled):
    """A boundary two cells away is within the tolerance, one three cells away is not; a noisy one against loops."""
    sure = 60 * np.stack([square(8, 8), square(10, 10), square(11, 8), square(0, 0, 28)]) - 30
    noisy = random.randn(28, 28) * 2
    logits = np.stack([*sure, noisy]).astype(np.float32)
    found = compiled(lambda x, y: loss_ops.boundary(x, y, 2))(
        tf.constant(logits), tf.constant([square(8, 8)] * 5)
    ).numpy()
    np.testing.assert_allclose(found[:2], 0, atol=1e-5)
    probabilities = 1 / (1 + np.exp(-logits))
    expected = [boundary_by_loops(probabilities[row], square(8, 8), 2) for row in (2, 4)]
    assert 0.1 < expected[0] < 0.9 and 0.1 < expected[1] < 0.9
    np.testing.assert_allclose(found[[2, 4]], expected, rtol=1e-4)
    assert found[3] == 1  # has no boundary


def test_a_target_without_boundary_has_no_boundary_loss():
    logits = tf.constant(random.randn(2, 28, 28), tf.float32)
    targets = tf.constant(np.stack([square(0, 0, 28), 0 * square(0, 0)]))
    assert loss_ops.boundary(logits, targets, 2).numpy().tolist() == [0, 0]
    cross_entropy = loss_ops.mask_cross_entropy(logits, targets)
    np.testing.assert_array_equal(losses.BoundaryLoss()(logits, targets), cross_entropy)
    pulled = slope(lambda x: loss_ops.boundary(x, tf.constant([square(8, 8)] * 2), 2), logits)
    assert np.isfinite(pulled).all() and pulled.any()


@pytest.mark.usefixtures("addons_or_ours")
def test_htc_loss_uses_them():
    truth = GroundTruth(
        boxes=tf.constant([[[1.0, 0, 11, 10]]]),
        classes=tf.constant([[1]]),
        valid=tf.constant([[True]]),
        masks=tf.fill([1, 1, 28, 28], tf.constant(255, tf.uint8)),
        crop_boxes=tf.constant([[[1.0, 0, 11, 10]]]),
        semantic=None,
    )
    rois = RoIs(
        boxes=tf.constant([[[0.0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]]),
        valid=tf.constant([[True, True, False]]),
        positive=tf.constant([[True, False, False]]),
        matches=tf.constant([[0, 0, 0]]),
    )
    logits = tf.constant([[[0.0, 0, 0], [0, 0, math.log(2)], [math.nan] * 3]])
    deltas = tf.constant([[[0.0] * 4, [7] * 4, [math.nan] * 4]])
    masks = tf.constant(random.randn(1, 3, 28, 28, 2), tf.float32)
    stage = StageOutput(rois, STDS, logits, deltas, None, rois._replace(valid=rois.positive), masks)
    named = HTCLoss(class_loss=losses.FocalLoss(), box_loss=losses.GIoULoss(), mask_loss=losses.BoundaryLoss(0.25))
    named = named.stage(stage, truth)
    target = mask_targets(truth.masks, truth.crop_boxes, rois.boxes[:, :1], rois.matches[:, :1])[0, 0]
    assert 0 < float(tf.reduce_mean(target)) < 1
    totals = [
        math.log(3) * 4 / 9 + math.log(2) / 4,
        10 - 10 * 90 / 110,  # the enclosing box is the union
        losses.BoundaryLoss(0.25)(masks[0, 0, :, :, 1], target),
    ]
    np.testing.assert_allclose([loss.total for loss in named.values()], totals, rtol=1e-5)
    assert [float(loss.count) for loss in named.values()] == [2, 2, 1]


def test_overrides_bind_them():
    files = [f"gin/options/{name}.gin" for name in ("giou", "focal", "boundary")]
    objective = config.load(["tests/tiny.gin", *files], [])[0].objective
    kinds = [type(objective.rpn_class_loss), type(objective.class_loss), type(objective.box_loss)]
    assert [*kinds, type(objective.mask_loss)] == [
        losses.SigmoidFocalLoss,
        losses.FocalLoss,
        losses.GIoULoss,
        losses.BoundaryLoss,
    ]
