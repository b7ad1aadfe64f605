"""Postprocess: scores averaged over the stages, boxes of the last one."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.postprocess import Postprocess
from htc_tf.structures import RoIs, StageOutput

LOGITS = [[[4.0, 0, 0], [0, 3, 0], [0, 1, 3], [5, 0, 0]], [[2.0, 0, 0], [0, 1, 2], [0, 1, 3], [9, 9, 0]]]
BOXES = tf.constant([[[0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30], [40, 40, 50, 50]]], tf.float32)


def stages(valid=(True, True, True, False)):
    rois = RoIs(BOXES + 1, tf.constant([valid]))
    return [
        StageOutput(rois, (0.1,) * 4, tf.constant([logits]), tf.zeros([1, 4, 4]), boxes)
        for logits, boxes in zip(LOGITS, (BOXES + 7, BOXES), strict=True)
    ]


def rows(found):
    fields = (found.classes, found.scores, found.boxes)
    return [
        (int(label), float(score), box.tolist())
        for label, score, box, valid in zip(
            *(field.numpy()[0] for field in fields), found.valid.numpy()[0], strict=True
        )
        if valid
    ]


def expected(threshold):
    """Expected detections, by NumPy, of the first three RoIs; only the first two overlap in a class."""
    logits = np.mean(LOGITS, axis=0)[:3]
    scores = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, :2]
    candidates = sorted(((scores[i, c], c, i) for i in range(3) for c in range(2)), reverse=True)
    kept = []
    for score, label, roi in candidates:
        overlapped = roi < 2 and any(c == label and i < 2 for _, c, i in kept)
        if score > threshold and not overlapped:
            kept.append((score, label, roi))
    return [(label, score, BOXES.numpy()[0, roi].tolist()) for score, label, roi in kept]


def test_scores_of_the_mean_logits_and_boxes_of_the_last_stage():
    for nms in ("combined", "xla"):
        for threshold in (0.2, 0.001):
            found = rows(Postprocess(score_threshold=threshold, keep=6, nms=nms)(stages()))
            wanted = expected(threshold)
            assert len(found) == len(wanted) == (2 if threshold == 0.2 else 4)
            for (label, score, box), (wanted_label, wanted_score, wanted_box) in zip(found, wanted, strict=True):
                assert (label, box) == (wanted_label, wanted_box)
                np.testing.assert_allclose(score, wanted_score, rtol=1e-5)


def test_mean_of_the_probabilities():
    """detectron2 averages these; the third RoI has the same logits in both stages, and the same scores either way."""
    logits = tf.constant(LOGITS)
    found = Postprocess(average="probabilities").scores(stages())[0].numpy()
    np.testing.assert_allclose(found, np.mean(tf.nn.softmax(logits), axis=0)[:, :2], rtol=1e-6)
    means = Postprocess().scores(stages())[0].numpy()
    assert not np.allclose(found[:2], means[:2], rtol=1e-3)
    np.testing.assert_allclose(found[2], means[2], rtol=1e-6)


def test_detections_are_padded_and_cut_to_keep():
    found = Postprocess(keep=1)(stages())
    assert found.boxes.shape == (1, 1, 4) and found.masks is None and len(rows(found)) == 1
    found = Postprocess(score_threshold=0.2, keep=50)(stages())
    assert found.boxes.shape == (1, 50, 4) and len(rows(found)) == 2
    assert rows(Postprocess()(stages(valid=(False,) * 4))) == []


def test_xla_selects_its_nms():
    assert [Postprocess(xla=xla).nms for xla in (False, True)] == ["combined", "xla"]
    with pytest.raises(UserError, match=r"^Postprocess\.nms = 'combined'.*XLA.*'auto'"):
        Postprocess(xla=True, nms="combined")
    Postprocess(xla=True, nms="combined", soft="linear")  # has no hard NMS


def test_soft_nms_lowers_scores():
    dropped = rows(Postprocess(keep=8)(stages()))
    for soft, factor in (("linear", 1 - 10 / 11), ("gaussian", np.exp(-((10 / 11) ** 2) / 0.5))):
        kept = rows(Postprocess(keep=8, soft=soft)(stages()))
        assert len(kept) == 6 and len(dropped) == 4
        logits = np.mean(LOGITS, axis=0)[:3]
        scores = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, :2]
        for label in (0, 1):
            better, worse = np.sort(scores[:2, label])[::-1]
            expected = sorted([better, worse * factor, scores[2, label]], reverse=True)
            np.testing.assert_allclose([s for c, s, _ in kept if c == label], expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"Postprocess.soft = 'hard'"):
        Postprocess(soft="hard")
