"""Class-specific boxes, as in Faster and Mask R-CNN: each step against loops in NumPy, and the whole network."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.models import test_time_augmentation as tta
from htc_tf.models.box_head import BoxHead
from htc_tf.models.htc import HTC
from htc_tf.models.htc_loss import HTCLoss
from htc_tf.models.postprocess import Postprocess
from htc_tf.structures import GroundTruth, RoIs, StageOutput

K, STDS = 3, (0.1, 0.1, 0.2, 0.2)
SIZES = np.float32([[60, 50]])
ROIS = np.float32([[10, 10, 30, 30], [20, 5, 40, 45], [12, 8, 31, 29], [0, 0, 0, 0]])
random = np.random.RandomState(5)
LOGITS = random.randn(4, K + 1).astype(np.float32) * 2
LOGITS[:, K] += 3  # background has most of the largest logits, but the next stage's box is never background's
DELTAS = random.randn(4, K, 4).astype(np.float32) * 2
TRUTH = GroundTruth(
    boxes=tf.constant([[[8.0, 9, 29, 33], [25, 2, 44, 40]]]),
    classes=tf.constant([[2, 1]]),
    valid=tf.constant([[True, True]]),
    masks=None,
    crop_boxes=None,
    semantic=None,
)


def rois(positive=None):
    fields = {} if positive is None else {"positive": tf.constant([positive]), "matches": tf.constant([[1, 0, 0, 0]])}
    return RoIs(tf.constant(ROIS[None]), tf.constant([[True, True, True, False]]), **fields)


def decode(roi, delta, size):
    """One box: mmdetection's `delta2bbox`."""
    height, width = roi[2] - roi[0], roi[3] - roi[1]
    dy, dx, dh, dw = delta * STDS
    y, x = roi[0] + height / 2 + dy * height, roi[1] + width / 2 + dx * width
    limit = abs(np.log(16 / 1000))
    height, width = height * np.exp(np.clip(dh, -limit, limit)), width * np.exp(np.clip(dw, -limit, limit))
    corners = np.array([y - height / 2, x - width / 2, y + height / 2, x + width / 2])
    return np.clip(corners, 0, np.tile(size, 2))


CLASS_BOXES = np.array(
    [[decode(roi, delta, SIZES[0]) for delta in deltas] for roi, deltas in zip(ROIS, DELTAS, strict=True)]
)


def branch(rois, truth=None):
    walk = SimpleNamespace(roi_pooler=SimpleNamespace(pool_boxes=lambda *_: None))
    stage = SimpleNamespace(box_head=lambda _, training: (tf.constant(LOGITS), tf.constant(DELTAS)), target_stds=STDS)
    return HTC.box_branch(walk, stage, None, rois, tf.constant(SIZES), truth)


def test_the_head_returns_four_deltas_per_class():
    head = BoxHead(K, channels=2, class_agnostic=False)
    head(tf.zeros([1, 2, 2, 1]))
    head.regressor.bias.assign(tf.range(4.0 * K))
    logits, deltas = head(tf.zeros([5, 2, 2, 1]))
    assert logits.shape == (5, K + 1)
    np.testing.assert_array_equal(deltas, np.tile(np.arange(4.0 * K).reshape(1, K, 4), [5, 1, 1]))


def test_boxes_of_the_next_stage():
    likeliest = LOGITS[:, :K].argmax(axis=-1)
    found = branch(rois())
    np.testing.assert_allclose(found.class_boxes[0], CLASS_BOXES, atol=1e-4)
    np.testing.assert_allclose(found.boxes[0], CLASS_BOXES[np.arange(4), likeliest], atol=1e-4)
    # In training a positive is refined by its object's class: the first RoI's is class 1, the third's class 2.
    assert likeliest[0] != 1 and likeliest[2] != 2
    learning = branch(rois([True, False, True, False]), TRUTH)
    wanted = CLASS_BOXES[np.arange(4), [1, likeliest[1], 2, likeliest[3]]]
    np.testing.assert_allclose(learning.boxes[0], wanted, atol=1e-4)


def encode(roi, box):
    """One box: mmdetection's `bbox2delta`."""
    (y, x), (height, width) = (roi[:2] + roi[2:]) / 2, roi[2:] - roi[:2]
    (gy, gx), (gheight, gwidth) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    return np.array([(gy - y) / height, (gx - x) / width, np.log(gheight / height), np.log(gwidth / width)]) / STDS


@pytest.mark.parametrize("beta", [0, 1.0])
def test_the_loss_is_of_the_objects_class(beta):
    output = branch(rois([True, False, True, False]), TRUTH)
    deltas = tf.Variable(output.deltas)
    with tf.GradientTape() as tape:
        loss = HTCLoss(box_beta=beta).stage(output._replace(deltas=deltas), TRUTH)["box"].total
    distance = np.abs([DELTAS[0, 1] - encode(ROIS[0], TRUTH.boxes[0, 1].numpy()),
                       DELTAS[2, 2] - encode(ROIS[2], TRUTH.boxes[0, 0].numpy())])  # fmt: skip
    smooth = np.where(distance < 1, distance**2 / 2, distance - 0.5)
    np.testing.assert_allclose(loss, (smooth if beta else distance).sum(), rtol=1e-5)
    trained = np.zeros([1, 4, K], bool)
    trained[0, [0, 2], [1, 2]] = True
    np.testing.assert_array_equal(np.any(tape.gradient(loss, deltas) != 0, axis=-1), trained)


def overlap(a, b):
    height, width = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    both = max(height, 0) * max(width, 0)
    return both / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - both)


# Three rows; class 0 and class 1 do not overlap, and in class 1 the second and third boxes are equal.
ROWS = np.float32(
    [
        [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 9, 9]],
        [[0, 1, 10, 10], [20, 20, 30, 30], [30, 0, 40, 9]],
        [[40, 0, 50, 10], [20, 20, 30, 31], [0, 0, 8, 9]],
    ]
)


def detect(soft=None, **arguments):
    output = StageOutput(RoIs(None, tf.ones([1, 3], tf.bool)), STDS, tf.constant(LOGITS[None, :3]), None, None)
    output = output._replace(class_boxes=tf.constant(ROWS[None]))
    found = Postprocess(nms_threshold=0.5, keep=9, soft=soft, **arguments)([output])
    count = int(tf.math.count_nonzero(found.valid))
    rows = zip(found.classes[0].numpy(), found.scores[0].numpy(), found.boxes[0].numpy(), strict=True)
    return [(label, score, box.tolist()) for label, score, box in rows][:count]


def greedy(lower):
    """NMS of each class, best first; `lower` returns the factor of a score by the IoU with a better box."""
    powers = np.exp(LOGITS[:3])
    scores, found = powers / powers.sum(-1, keepdims=True), []
    for label in range(K):
        left = {row: scores[row, label] for row in range(3)}
        while left:
            best = max(left, key=left.get)
            score = left.pop(best)
            if score > 0.001:
                found.append((label, score, ROWS[best, label].tolist()))
            left = {row: s * lower(overlap(ROWS[row, label], ROWS[best, label])) for row, s in left.items()}
    return sorted(found, key=lambda detection: -detection[1])


@pytest.mark.parametrize(
    "arguments, lower, count",
    [
        ({"nms": "combined"}, lambda iou: float(iou <= 0.5), 6),
        ({"nms": "xla"}, lambda iou: float(iou <= 0.5), 6),
        ({"soft": "linear"}, lambda iou: 1 - iou if iou > 0.5 else 1, 8),
        ({"soft": "gaussian"}, lambda iou: np.exp(-(iou**2) / 0.5), 9),
    ],
)
def test_nms_of_each_class_uses_its_own_boxes(arguments, lower, count):
    found, wanted = detect(**arguments), greedy(lower)
    assert len(found) == len(wanted) == count
    for (label, score, box), (wanted_label, wanted_score, wanted_box) in zip(found, wanted, strict=True):
        assert (label, box) == (wanted_label, wanted_box)
        assert score == pytest.approx(wanted_score, rel=1e-4)


def test_boxes_of_classes_are_flipped():
    sizes = tf.constant([[60.0, 50.0], [60.0, 40.0]])
    boxes = tf.constant(np.stack([ROWS, ROWS]))
    mirrored = tta.flip_boxes(boxes, sizes)
    assert mirrored[1, 0, 1].numpy().tolist() == [50, -20, 60, -10]
    for label in range(K):
        np.testing.assert_array_equal(mirrored[:, :, label], tta.flip_boxes(boxes[:, :, label], sizes))


def test_the_whole_network(tiny_model, drawn_batch, make_learner):
    """A cascade of two stages in training, in inference and with test-time augmentation."""
    params = ["BoxHead.class_agnostic=False", "NUM_STAGES=2", "stage2/Stage.iou_threshold=0.05"]
    experiment, model = tiny_model(*params, "MASKS=False", "SEMANTIC=False")
    outputs = model(drawn_batch.images, drawn_batch.sizes, drawn_batch.truth, tf.constant([0, 1]))
    for output in outputs.stages:
        assert output.deltas.shape == output.class_boxes.shape == (2, 16, 8, 4) and output.boxes.shape == (2, 16, 4)
    losses, gradients = make_learner(experiment, model)(drawn_batch)
    assert losses["stage2_box"] > 0 and all(np.isfinite(gradient).all() for gradient in gradients)
    wanted = model.infer(drawn_batch.images, drawn_batch.sizes)
    found = tta.TestTimeAugmentation(scales=(1.0,), flip=False)(model, drawn_batch.images, drawn_batch.sizes)
    assert wanted.valid.numpy().sum() > 3
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
