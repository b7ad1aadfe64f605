"""mmdetection 3.3.0, HTC R50-FPN, inference: maps, stages on fixed RoIs, detections.

On its weights and input ours are its numbers. The arrays are tests/reference/{forward,cascade,detections}_*.npz,
thinned out: `tiny` is two images in one batch of 128 x 160, `medium` one image of 400 x 533. Their layout is
mmdetection's (NCHW; x1, y1, x2, y2). `NAME@step = [c, s]`: every c-th channel, every s-th row and column.
`NAME@noise`: the largest difference between mmdetection in float32 and in float64. Training is compared in
test_parity_mmdet_training.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import weights
from htc_tf.models.mask_head import mask_information_flow
from htc_tf.models.roi_pooler import RoIPooler
from htc_tf.ops.masks import paste
from htc_tf.structures import Detections, Proposals, RoIs
from tests.slow import slow

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
SOME = 20  # detections whose masks are compared


@pytest.fixture(scope="module", params=["tiny", *slow("medium")])
def case(request, mmdet_model, mmdet_batch, reference):
    """A batch of the references and the model's maps of it."""
    images, sizes = mmdet_batch(request.param)
    features = mmdet_model.backbone(mmdet_model.normalize(images, sizes))
    pyramid = mmdet_model.neck(features)
    semantic = mmdet_model.semantic_head(pyramid)
    return SimpleNamespace(
        name=request.param,
        images=images,
        sizes=sizes,
        features=features,
        pyramid=pyramid,
        rpn=mmdet_model.rpn(pyramid, sizes, training=False),
        semantic=semantic,
        prepared=mmdet_model.roi_pooler.prepare(pyramid, semantic.embedding),
        expected=lambda part: reference(f"{part}_{request.param}"),
    )


@pytest.fixture
def near(compare, case):
    """Compares within 4 x the noise of mmdetection itself where that is known, or 1e-4 of the largest value."""

    def near(ours, arrays, name):
        expected = arrays[name]
        channels, step = arrays.get(f"{name}@step", (1, 1))
        if expected.ndim == 4:
            ours = np.transpose(ours, [0, 3, 1, 2])[:, ::channels, ::step, ::step]
        allowed = max(4 * arrays.get(f"{name}@noise", 0.0), 1e-4 * np.abs(expected).max())
        compare(f"{case.name}: {name}", np.reshape(ours, expected.shape), expected, atol=allowed)

    return near


def rois_of(arrays, name, case):
    """Returns RoIs from the reference's rows (image, x1, y1, x2, y2); every image has the same number of rows."""
    boxes = tf.constant(arrays[name][:, 1:][:, SWAP].reshape(len(case.sizes), -1, 4))
    return RoIs(boxes, tf.ones(boxes.shape[:2], tf.bool))


def test_names_shapes_and_round_trip(mmdet_model, mmdet_state):
    back = weights.mmdet_arrays(mmdet_model)
    assert back.keys() == mmdet_state.keys()
    for name, array in mmdet_state.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_pyramid_and_semantic_maps(case, near):
    arrays = case.expected("forward")
    for level in (2, 3, 4, 5):
        near(case.features[level], arrays, f"C{level}")
    for level in (2, 3, 4, 5, 6):
        near(case.pyramid[level], arrays, f"P{level}")
    near(case.semantic.logits, arrays, "sem_logits")
    near(case.semantic.embedding, arrays, "sem_feat")


def test_rpn(case, near, compare):
    arrays, detections = case.expected("forward"), case.expected("detections")
    counts = [3 * case.pyramid[level].shape[1] * case.pyramid[level].shape[2] for level in sorted(case.pyramid)]
    logits, deltas = tf.split(case.rpn.logits, counts, axis=1), tf.split(case.rpn.deltas, counts, axis=1)
    for index, level in enumerate(sorted(case.pyramid)):
        shape = [len(case.sizes), *case.pyramid[level].shape[1:3], -1]
        near(np.reshape(logits[index], shape), arrays, f"rpn_cls_{index}")
        near(np.reshape(deltas[index].numpy()[..., SWAP], shape), arrays, f"rpn_reg_{index}")
    for row in range(len(case.sizes)):
        boxes, scores, valid = (part[row].numpy() for part in case.rpn.proposals)
        expected = detections[f"rpn_boxes_{row}"]
        assert valid.sum() == len(expected)
        compare(f"{case.name}: proposals, scores", scores[valid], detections[f"rpn_scores_{row}"], atol=5e-5)
        # Nearly equal scores swap neighbors, so each box is matched to the nearest one.
        distance = np.abs(boxes[valid][:, SWAP] - expected[:, np.newaxis]).max(-1)
        order = distance.argmin(axis=1)
        assert len(set(order)) == len(expected)
        compare(f"{case.name}: proposals, pixels", boxes[valid][order][:, SWAP], expected, atol=0.01)


def test_stages_on_fixed_rois(mmdet_model, case, near):
    arrays = case.expected("cascade")
    rois = rois_of(arrays, "s0_rois", case)
    images = np.repeat(np.arange(len(case.sizes))[:, None, None], rois.boxes.shape[1], axis=1)
    logits = []
    for index, stage in enumerate(mmdet_model.stages):
        near(mmdet_model.roi_pooler.pool_boxes(case.prepared, rois), arrays, f"s{index}_bbox_feats")
        output = mmdet_model.box_branch(stage, case.prepared, rois, case.sizes)
        near(output.logits, arrays, f"s{index}_cls_score")
        near(output.deltas.numpy()[..., SWAP], arrays, f"s{index}_bbox_pred")
        near(np.concatenate([images, output.boxes.numpy()[..., SWAP]], axis=-1), arrays, f"s{index}_refined")
        logits.append(output.logits)
        rois = rois._replace(boxes=output.boxes)
    near(tf.nn.softmax(tf.add_n(logits) / 3), arrays, "avg_scores")


def test_masks_with_information_flow(mmdet_model, case, near):
    arrays = case.expected("cascade")
    heads = [stage.mask_head for stage in mmdet_model.stages]
    rois = rois_of(arrays, "mask_rois", case)
    features = mask_information_flow(heads, mmdet_model.roi_pooler.pool_masks(case.prepared, rois), True)
    for index, (head, x) in enumerate(zip(heads, features, strict=True)):
        near(x, arrays, f"m{index}_feat")
        near(head(x), arrays, f"m{index}_logits")


@pytest.mark.parametrize("case", ["tiny"], indirect=True)
def test_pooling_for_xla(case, compare):
    arrays = case.expected("cascade")
    roi_pooler = RoIPooler(sampling_ratio=0, implementation="xla")
    prepared = roi_pooler.prepare(case.pyramid, case.semantic.embedding)
    pooled = roi_pooler.pool_boxes(prepared, rois_of(arrays, "s0_rois", case)).numpy().transpose(0, 3, 1, 2)
    ours, theirs = pooled[:, :: arrays["s0_bbox_feats@step"][0]], arrays["s0_bbox_feats"]
    compare("tiny: s0_bbox_feats by the xla implementation", ours, theirs, rtol=1e-4)


def pair(detections, case, kind, row):
    """Returns the order in which our detections match the reference's, by class and box, and our boxes in its frame."""
    arrays = case.expected("detections")
    boxes, classes = arrays[f"{kind}_ori_{row}_boxes"], arrays[f"{kind}_ori_{row}_labels"]
    scale = np.tile(case.sizes[row].numpy() / arrays["ori_shape"][row], 2).astype(np.float32)
    ours = detections.boxes[row].numpy() / scale
    assert detections.valid[row].numpy().sum() == len(boxes)
    distance = np.abs(ours[:, SWAP] - boxes[:, np.newaxis]).max(-1)
    distance += 1e6 * (detections.classes[row].numpy() != classes[:, np.newaxis])
    order = distance.argmin(axis=1)
    assert len(set(order)) == len(boxes)
    return order, ours[order]


def take(detections, orders):
    """Returns some detections of each image, in the order given."""
    fields = (field for field in detections if field is not None)
    return Detections(*(tf.stack([tf.gather(f[row], o[:SOME]) for row, o in enumerate(orders)]) for f in fields))


@pytest.fixture
def same(mmdet_model, case, compare, monkeypatch):
    """same(kind, title, masks) compares our detections with those of `full` or `given`; returns differences of scores.

    masks: which of the reference's masks to compare: "masks", the last stage's; "masks_avg3", the mean over the stages.
    """

    def same(kind, title, masks=(), scores_within=2e-4):
        arrays = case.expected("detections")
        monkeypatch.setattr(mmdet_model, "masks", False)
        detections = mmdet_model.infer(case.images, case.sizes)
        pairs = [pair(detections, case, kind, row) for row in range(len(case.sizes))]
        name, differences = f"{case.name}, {title}", []
        for row, (order, boxes) in enumerate(pairs):
            compare(f"{name}: boxes, pixels", boxes[:, SWAP], arrays[f"{kind}_ori_{row}_boxes"], atol=0.05)
            scores, expected = detections.scores[row].numpy()[order], arrays[f"{kind}_ori_{row}_scores"]
            compare(f"{name}: scores", scores, expected, atol=scores_within)
            differences.append(np.abs(scores - expected))
        monkeypatch.setattr(mmdet_model, "masks", True)
        for which in masks:
            monkeypatch.setattr(mmdet_model, "average_masks", which == "masks_avg3")
            some = take(detections, [order for order, _ in pairs])
            some = mmdet_model.add_masks(some, mmdet_model.stage_masks(case.prepared, some)).masks
            for row, (_, boxes) in enumerate(pairs):
                height, width = arrays["ori_shape"][row]
                packed = arrays[f"{kind}_ori_{row}_{which}"][:SOME]
                pasted = paste(some[row], boxes[:SOME], height, width).numpy()
                differ = (pasted != np.unpackbits(packed, axis=-1)[..., :width].astype(bool)).mean()
                stages = "mean over stages" if which == "masks_avg3" else "last stage"
                compare(f"{name}: share of mask pixels that differ, {stages}", differ, 0, atol=1e-3)
        return np.concatenate(differences)

    return same


def test_detections_from_the_image(case, same):
    """The masks are the last stage's, as mmdetection 3 has them (its issue 10210).

    Medium: 99 of the 100 scores agree to 1e-4, one differs by 2.5e-4. Its proposal is 0.0008 pixels off, which the
    three stages with these weights make 0.005 pixels and 0.006 in a logit. That is what float32 leaves open: the RPN's
    deltas of mmdetection and ours differ by 3.2e-6 in the mean square, and both by as much from float64. From
    mmdetection's own proposals all scores agree to 3.2e-5 (the test below), computed in float64 to 8e-5.
    """
    worst = 2e-4 if case.name == "tiny" else 5e-4
    differences = same("full", "from the image", ["masks"], scores_within=worst)
    assert (differences > 2e-4).mean() <= 0.01


@pytest.fixture
def propose(mmdet_model, case, monkeypatch):
    """propose(name) replaces the RPN's proposals by boxes of the reference."""

    def propose(name):
        boxes = np.stack([case.expected("detections")[f"{name}_{row}"][:, SWAP] for row in range(len(case.sizes))])
        proposals = Proposals(tf.constant(boxes), tf.ones(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool))
        monkeypatch.setattr(mmdet_model.rpn, "propose", lambda *_: proposals)

    return propose


@pytest.mark.parametrize("case", slow("medium"), indirect=True)
def test_detections_from_mmdetections_proposals(same, propose):
    propose("rpn_boxes")
    same("full", "from mmdetection's proposals")


def test_detections_from_given_proposals(same, propose):
    """The masks of the last stage (mmdetection 3), and their mean over the stages (the paper, mmdetection 1 and 2)."""
    propose("given_proposals")
    same("given", "from given proposals", ["masks", "masks_avg3"])
