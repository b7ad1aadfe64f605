"""A trace holds the model's own outputs: detections, masks, and every proposal at every step."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.explanation.trace import Trace, find_rows, record_trace, softmax
from htc_tf.inference.detector import Detector
from htc_tf.structures import Detections


@pytest.fixture
def photo():
    """Wider than high, so that it is padded, and larger than the network's input."""
    return np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)


def recorded(tiny_model, photo, *params):
    experiment, model = tiny_model(*params)
    detector = Detector(model, experiment)
    images, sizes = detector.prepare(photo)
    return record_trace(detector, photo, threshold=0.0), model, images, sizes


def test_it_ends_with_the_detections_of_the_model(tiny_model, photo, eagerly):
    trace, model, images, sizes = recorded(tiny_model, photo)
    expected = model.infer(images, sizes)
    for mine, theirs in zip(trace.detections[:5], expected[:5], strict=True):
        np.testing.assert_allclose(mine, theirs[0].numpy()[expected.valid[0].numpy()], atol=1e-6)
    count = len(trace.detections.scores)
    assert count > 3 and trace.stages == 3 and trace.masks.shape == (3, count, 28, 28)
    assert trace.mask_stages == (1, 2, 3) and not trace.relay and not trace.global_context
    np.testing.assert_allclose(trace.masks.mean(axis=0), trace.detections.masks, atol=1e-6)
    np.testing.assert_array_equal(trace.image, images[0, :48, :64])
    assert trace.padded == (64, 64) and trace.labels.shape == (48, 64)

    # Every row, at every step.
    outputs = model(images, sizes)
    rpn, stages = outputs.rpn, outputs.stages
    there = rpn.proposals.valid[0].numpy()
    np.testing.assert_allclose(trace.scores, rpn.proposals.scores[0].numpy()[there], atol=1e-6)
    for step, boxes in enumerate([rpn.proposals.boxes, *(stage.boxes for stage in stages)]):
        np.testing.assert_allclose(trace.boxes[step], boxes[0].numpy()[there], atol=1e-4)
    np.testing.assert_allclose(trace.boxes[-1, trace.rows], trace.detections.boxes, atol=1e-4)
    # A detection's score is the mean over the stages.
    together = softmax(trace.logits.mean(axis=0))
    np.testing.assert_allclose(together[trace.rows, trace.detections.classes], trace.detections.scores, atol=1e-5)
    assert trace.probability(2, 0) == pytest.approx(
        softmax(trace.logits[1, trace.rows[0]])[trace.detections.classes[0]], abs=1e-6
    )
    assert trace.probability(0, 0) == trace.scores[trace.rows[0]]

    # Cells of the pyramid: 48 x 64 pixels are 12 x 16 cells of P2 and one of P6.
    assert {level: values.shape for level, values in trace.levels.items()} == {
        2: (12, 16),
        3: (6, 8),
        4: (3, 4),
        5: (2, 2),
        6: (1, 1),
    }
    features = outputs.pyramid[3][0, 5, 7].numpy()
    assert trace.levels[3][5, 7] == pytest.approx(np.sqrt((features**2).mean()), rel=1e-5)


def test_one_mask_head_of_three_stages(tiny_scnet, photo, eagerly):
    trace, model, images, sizes = recorded(tiny_scnet, photo)
    count = len(trace.detections.scores)
    assert count > 3 and trace.stages == 3 and trace.masks.shape == (1, count, 28, 28)
    assert trace.mask_stages == (3,) and trace.relay and trace.global_context
    masks = model.infer(images, sizes).masks[0][:count]
    np.testing.assert_allclose(trace.masks[0], masks, atol=1e-6)


def test_parts_that_a_model_lacks_are_none(tiny_model, photo, eagerly):
    trace, model, images, sizes = recorded(tiny_model, photo, "NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
    assert trace.stages == 1 and trace.masks is None and trace.labels is None and trace.detections.masks is None
    np.testing.assert_allclose(
        trace.detections.boxes, model.infer(images, sizes).boxes[0][: len(trace.rows)], atol=1e-6
    )


def test_scores_decide_between_equal_boxes():
    boxes = np.float32([[0, 0, 9, 9], [5, 5, 8, 8], [5, 5, 8, 8]])
    scores = np.float32([[0.9, 0.9], [0.2, 0.7], [0.6, 0.1]])
    found = Detections(boxes[[1, 1, 0]], np.float32([0.7, 0.6, 0.9]), np.int32([1, 0, 1]), np.ones(3, bool))
    assert find_rows(found, boxes, scores).tolist() == [1, 2, 0]
    # A box for each class: row 2 as class 0 equals row 0 as class 1.
    of_classes = np.stack([boxes[[1, 2, 0]], boxes], axis=1)
    assert find_rows(found, of_classes, scores).tolist() == [1, 0, 0]
    nothing = Detections(*(field[:0] for field in found[:4]))
    assert find_rows(nothing, boxes[:0], scores[:0]).tolist() == []


def toy(rows, boxes):
    nothing = dict.fromkeys(Trace._fields)
    return Trace(**nothing | {"rows": np.array(rows, int), "boxes": np.float32(boxes)})


def test_objects_and_their_overlap():
    """A box of two classes is one object; overlaps are 0.5 and 1."""
    boxes = [[[0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 1, 1]], [[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 1, 1]]]
    trace = toy([1, 0, 1], boxes)
    assert trace.objects.tolist() == [0, 1]
    assert trace.overlap(0) == pytest.approx(0.75) and trace.overlap(1) == pytest.approx(1)
    assert toy([], boxes).overlap(0) is None


def test_softmax():
    logits = np.random.default_rng(0).normal(0, 30, (4, 5)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), tf.nn.softmax(logits), atol=1e-6)
