"""HTC R50-FPN, on mmdetection 3.3.0's weights and input, gives mmdetection's numbers: maps, stages, detections.

The arrays are tests/reference/{forward,cascade,detections}_tiny.npz, thinned out: two images in one batch of 128 x 160.
Their layout is mmdetection's (NCHW; x1, y1, x2, y2). `NAME@step = [c, s]`: every c-th channel, every s-th row and
column. `NAME@noise`: the largest difference between mmdetection in float32 and in float64. Training is compared in
test_parity_mmdet_training.py.
"""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.engine import weights
from htc_tf.models.mask_head import run_trunks
from htc_tf.models.roi_features import RoIAlign
from htc_tf.ops.masks import paste, select_class
from htc_tf.structures import Proposals, RoIs

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2


def near(ours, reference, name):
    """Within 4 x the noise of mmdetection itself, or 1e-4 of the largest value."""
    expected = reference[name]
    channels, step = reference.get(f"{name}@step", (1, 1))
    if expected.ndim == 4:
        ours = np.transpose(ours, [0, 3, 1, 2])[:, ::channels, ::step, ::step]
    tolerance = max(4 * reference[f"{name}@noise"], 1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(np.reshape(ours, expected.shape), expected, rtol=0, atol=tolerance, err_msg=name)


def rois_of(reference, name):
    """Reference RoIs (image, x1, y1, x2, y2), as many in each of the two images."""
    boxes = tf.constant(reference[name][:, 1:][:, SWAP].reshape(2, -1, 4))
    return RoIs(boxes, tf.ones(boxes.shape[:2], tf.bool))


@pytest.fixture(scope="module")
def maps(mmdet_model, tiny_batch):
    """(C, P, RPNOutput, Semantic) of the batch."""
    images, sizes = tiny_batch
    features = mmdet_model.backbone(mmdet_model.normalize(images, sizes))
    pyramid = mmdet_model.neck(features)
    return features, pyramid, mmdet_model.rpn(pyramid, sizes, training=False), mmdet_model.semantic_head(pyramid)


@pytest.fixture(scope="module")
def prepared(mmdet_model, maps):
    return mmdet_model.roi_align.prepare(maps[1], maps[3].embedding)


def test_names_shapes_and_round_trip(mmdet_model, mmdet_state):
    back = weights.mmdet_arrays(mmdet_model)
    assert back.keys() == mmdet_state.keys()
    for name, array in mmdet_state.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_pyramid_and_semantic_maps(maps, reference):
    features, pyramid, _, semantic = maps
    expected = reference("forward_tiny")
    for level in (2, 3, 4, 5):
        near(features[level], expected, f"C{level}")
    for level in (2, 3, 4, 5, 6):
        near(pyramid[level], expected, f"P{level}")
    near(semantic.logits, expected, "sem_logits")
    near(semantic.embedding, expected, "sem_feat")


def test_rpn(maps, reference):
    _, pyramid, rpn, _ = maps
    expected, detections = reference("forward_tiny"), reference("detections_tiny")
    counts = [3 * pyramid[level].shape[1] * pyramid[level].shape[2] for level in sorted(pyramid)]
    logits, deltas = tf.split(rpn.logits, counts, axis=1), tf.split(rpn.deltas, counts, axis=1)
    for index, level in enumerate(sorted(pyramid)):
        shape = [2, *pyramid[level].shape[1:3], -1]
        near(np.reshape(logits[index], shape), expected, f"rpn_cls_{index}")
        near(np.reshape(deltas[index].numpy()[..., SWAP], shape), expected, f"rpn_reg_{index}")
    for row in range(2):
        boxes, scores, valid = (part[row].numpy() for part in rpn.proposals)
        assert valid.all()
        np.testing.assert_allclose(scores, detections[f"rpn_scores_{row}"], atol=5e-5)
        # Near-equal scores swap neighbours, so each box is looked for wherever it is.
        distance = np.abs(boxes[:, SWAP] - detections[f"rpn_boxes_{row}"][:, np.newaxis]).max(-1)
        assert distance.min(axis=0).max() < 0.01 and distance.min(axis=1).max() < 0.01


def test_stages_on_fixed_rois(mmdet_model, tiny_batch, prepared, reference):
    expected = reference("cascade_tiny")
    rois = rois_of(expected, "s0_rois")
    logits = []
    for index, stage in enumerate(mmdet_model.stages):
        near(mmdet_model.roi_align.pool_boxes(prepared, rois), expected, f"s{index}_bbox_feats")
        output = mmdet_model.box_branch(stage, prepared, rois, tiny_batch[1])
        near(output.logits, expected, f"s{index}_cls_score")
        near(output.deltas.numpy()[..., SWAP], expected, f"s{index}_bbox_pred")
        refined = np.concatenate([np.repeat([[[0]], [[1]]], 24, axis=1), output.boxes.numpy()[..., SWAP]], axis=-1)
        near(refined, expected, f"s{index}_refined")
        logits.append(output.logits)
        rois = rois._replace(boxes=output.boxes)
    near(tf.nn.softmax(tf.add_n(logits) / 3), expected, "avg_scores")


def test_masks_with_information_flow(mmdet_model, prepared, reference):
    expected = reference("cascade_tiny")
    heads = [stage.mask_head for stage in mmdet_model.stages]
    trunks = run_trunks(heads, mmdet_model.roi_align.pool_masks(prepared, rois_of(expected, "mask_rois")), True)
    for index, (head, trunk) in enumerate(zip(heads, trunks, strict=True)):
        near(trunk, expected, f"m{index}_feat")
        near(head(trunk), expected, f"m{index}_logits")


def test_pooling_for_xla(maps, reference):
    expected = reference("cascade_tiny")
    roi_align = RoIAlign(sampling_ratio=0, implementation="xla")
    prepared = roi_align.prepare(maps[1], maps[3].embedding)
    near(roi_align.pool_boxes(prepared, rois_of(expected, "s0_rois")), expected, "s0_bbox_feats")


def matched(detections, sizes, expected, kind, row):
    """Pairs detections with the reference's by class and overlap, near-equal scores may have swapped.

    Checks boxes to 0.05 pixels and scores to 2e-4. Returns the order in which ours match the reference's, and our
    boxes in the original image.
    """
    boxes, scores, classes = (expected[f"{kind}_ori_{row}_{what}"] for what in ("boxes", "scores", "labels"))
    scale = np.tile(sizes[row].numpy() / expected["ori_shape"][row], 2).astype(np.float32)
    ours = detections.boxes[row].numpy() / scale
    assert detections.valid[row].numpy().sum() == len(boxes)
    distance = np.abs(ours[:, SWAP] - boxes[:, np.newaxis]).max(-1)
    distance += 1e6 * (detections.classes[row].numpy() != classes[:, np.newaxis])
    order = distance.argmin(axis=1)
    assert len(set(order)) == len(boxes)
    assert distance.min(axis=1).max() < 0.05
    np.testing.assert_allclose(detections.scores[row].numpy()[order], scores, rtol=0, atol=2e-4)
    return order, ours[order]


def assert_same_masks(ours, boxes, packed, shape):
    """At least 99.9 % of the pixels agree."""
    height, width = shape
    expected = np.unpackbits(packed, axis=-1)[..., :width].astype(bool)
    assert (paste(ours, boxes, height, width).numpy() == expected).mean() >= 0.999


def last_stage_masks(model, prepared, boxes, classes):
    """What mmdetection 3 answers with: its test path keeps the third stage's masks only (its issue 10210)."""
    heads = [stage.mask_head for stage in model.stages]
    features = model.roi_align.pool_masks(prepared, RoIs(boxes, tf.ones(boxes.shape[:2], tf.bool)))
    logits = heads[-1](run_trunks(heads, features, True)[-1])
    return tf.reshape(tf.sigmoid(select_class(logits, tf.reshape(classes, [-1]))), [*classes.shape, 28, 28])


def test_detections_from_the_image(mmdet_model, tiny_batch, prepared, reference, monkeypatch):
    expected = reference("detections_tiny")
    monkeypatch.setattr(mmdet_model, "masks", False)
    detections = mmdet_model(*tiny_batch)
    found = [matched(detections, tiny_batch[1], expected, "full", row) for row in range(2)]
    some = 20
    boxes = tf.stack([tf.gather(detections.boxes[row], order[:some]) for row, (order, _) in enumerate(found)])
    classes = tf.stack([tf.gather(detections.classes[row], order[:some]) for row, (order, _) in enumerate(found)])
    masks = last_stage_masks(mmdet_model, prepared, boxes, classes)
    for row, (_, ours) in enumerate(found):
        shape = expected["ori_shape"][row]
        assert_same_masks(masks[row], ours[:some], expected[f"full_ori_{row}_masks"][:some], shape)


def test_detections_from_given_proposals(mmdet_model, tiny_batch, reference, monkeypatch):
    """The masks are the mean over the stages, as in the paper and in mmdetection 1 and 2. One image, to save time."""
    expected = reference("detections_tiny")
    images, sizes = (part[:1] for part in tiny_batch)
    boxes = tf.constant(expected["given_proposals_0"][np.newaxis, :, SWAP])
    proposals = Proposals(boxes, tf.ones(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool))
    monkeypatch.setattr(mmdet_model.rpn, "propose", lambda *_: proposals)
    detections = mmdet_model(images, sizes)
    order, ours = matched(detections, sizes, expected, "given", 0)
    masks = tf.gather(detections.masks[0], order)
    assert_same_masks(masks, ours, expected["given_ori_0_masks_avg3"], expected["ori_shape"][0])
