"""Paddle (laihuihui/htc), HTC R50-FPN with gin/options/paddle.gin, training: samples, losses, gradients of one step.

The arrays are tests/reference/paddle_train.npz. The first candidates are sampled, both there and here; the proposals
are those that Paddle sampled for stage 1, as many as its limit together with the ground truth.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from htc_tf.data.mask_crops import crop_masks
from htc_tf.models import htc_loss as objective_module
from htc_tf.ops import boxes as box_ops
from htc_tf.ops.masks import mask_targets
from htc_tf.structures import GroundTruth, Proposals
from htc_tf.weights import entries
from htc_tf.weights.names import Framework

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
NAMES = {"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_reg", "semantic": "loss_semantic"} | {
    f"stage{stage + 1}_{ours}": f"loss_{theirs}_stage{stage}"
    for stage in range(3)
    for ours, theirs in (("class", "bbox_cls"), ("box", "bbox_reg"), ("mask", "mask"))
}


def first(seed):
    """Returns a sampling rule that takes the first candidates."""
    del seed

    def choose(candidates, limit, maximum=None):
        del maximum
        return candidates & (tf.cumsum(tf.cast(candidates, tf.int32), axis=-1) <= tf.reshape(limit, [-1, 1]))

    return choose


def targets_of(arrays, stage):
    """Paddle's mask targets [n, 28, 28], rasterized polygons."""
    shape = arrays[f"mask{stage}_targets_shape"]
    return np.unpackbits(arrays[f"mask{stage}_targets_packed"])[: np.prod(shape)].reshape(shape)


@pytest.fixture(scope="module")
def expected(reference):
    return reference("paddle_train")


@pytest.fixture(scope="module")
def truth(expected):
    """Without masks: see test_mask_targets."""
    boxes = tf.constant(expected["gt_bbox"][np.newaxis, :, SWAP])
    labels = tf.constant(expected["semantic"][:, 0], tf.int32)
    classes = tf.constant(expected["gt_class"].T, tf.int32)
    masks = tf.zeros([*boxes.shape[:2], 2, 2], tf.uint8)
    return GroundTruth(boxes, classes, tf.ones(boxes.shape[:2], tf.bool), masks, boxes, labels)


@pytest.fixture(scope="module")
def step(paddle_built, paddle_image, expected, truth, deterministic):
    """One training step: its outputs, {name: loss}, {Paddle's name: gradient}; the mask targets are Paddle's."""
    (experiment, model), (images, sizes) = paddle_built, paddle_image
    boxes = tf.constant(expected["stage0_rois"][np.newaxis, truth.boxes.shape[1] :, SWAP])
    proposals = Proposals(boxes, tf.ones(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool))
    masks = iter([tf.constant(targets_of(expected, stage), tf.float32)[tf.newaxis] for stage in range(3)])

    def paddles_targets(truth_masks, frames, rois, matches, side):
        targets = next(masks)
        return tf.pad(targets, [[0, 0], [0, rois.shape[1] - targets.shape[1]], [0, 0], [0, 0]])

    trained = {id(variable) for variable in model.trainable_variables}
    table = [entry for entry in entries(model, Framework.PADDLE) if id(entry.variable) in trained]
    seed = tf.constant([0, 0])
    with pytest.MonkeyPatch.context() as patch, tf.GradientTape() as tape:
        patch.setattr(model, "normalize", lambda images, sizes: images)
        patch.setattr(model.rpn, "propose", lambda *_: proposals)
        patch.setattr(model.roi_sampler, "choose", first)
        patch.setattr(model.roi_sampler, "mask_limit", 10)  # as many as Paddle has, less padding to compute
        patch.setattr(experiment.objective.anchor_sampler, "choose", first)
        patch.setattr(objective_module, "mask_targets", paddles_targets)
        outputs = model(images, sizes, truth, seed)
        named = experiment.objective(outputs, truth, sizes, seed)
        losses = {name: loss.weight * loss.total / tf.maximum(loss.count, 1) for name, loss in named.items()}
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, [entry.variable for entry in table])
    return SimpleNamespace(
        outputs=outputs,
        losses={name: float(loss) for name, loss in losses.items()},
        gradients={e.name: gradient.numpy() for e, gradient in zip(table, gradients, strict=True)},
    )


def test_anchors(paddle_built, paddle_image, expected, truth, step, compare):
    anchors, sampler = step.outputs.rpn.anchors, paddle_built[0].objective.anchor_sampler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "choose", first)
        targets = sampler(anchors, truth, paddle_image[1], None)
    positive = targets.positive.numpy()[0]
    labels = np.where(positive, 1, np.where(targets.negative.numpy()[0], 0, -1))
    np.testing.assert_array_equal(labels, expected["rpn_labels"])
    matched = tf.gather(truth.boxes[0], targets.matches[0][positive])
    deltas = box_ops.encode(matched, anchors[positive], objective_module.UNIT).numpy()[:, SWAP]
    compare("deltas of the positive anchors", deltas, expected["rpn_target_deltas_of_positives"], rtol=1e-5)


def test_samples(step, expected, compare):
    for index, stage in enumerate(step.outputs.stages):
        count, classes = stage.rois.valid.numpy().sum(), expected[f"stage{index}_labels"]
        assert count == len(classes)
        np.testing.assert_array_equal(stage.rois.positive[0, :count], classes < 80)
        positive = classes < 80
        np.testing.assert_array_equal(
            stage.rois.matches[0, :count][positive], expected[f"stage{index}_gt_inds"][positive]
        )
        boxes = stage.rois.boxes[0, :count].numpy()[:, SWAP]
        compare(f"stage {index + 1}: RoIs, pixels", boxes, expected[f"stage{index}_rois"], atol=0.01)
        boxes = stage.mask_rois.boxes[0].numpy()[stage.mask_rois.valid[0]][:, SWAP]
        compare(f"stage {index + 1}: RoIs of the masks, pixels", boxes, expected[f"mask{index}_rois"], atol=0.01)


def test_which_boxes_are_valid_for_the_next_stage(step, paddle_model, monkeypatch):
    """Of the 512 RoIs of stage 1, 72 are refined to zero area and 6 others are refined ground-truth boxes."""
    counts = {}
    for drop_refined_truth in (False, True):
        for drop_empty in (False, True):
            monkeypatch.setattr(paddle_model, "drop_refined_truth", drop_refined_truth)
            monkeypatch.setattr(paddle_model, "drop_empty", drop_empty)
            valid = paddle_model.valid_for_next_stage(step.outputs.stages[0])
            counts[drop_refined_truth, drop_empty] = int(tf.math.count_nonzero(valid))
    assert counts == {(False, False): 512, (False, True): 440, (True, False): 506, (True, True): 434}


def test_losses(step, expected, compare):
    assert step.losses.keys() == NAMES.keys()
    for ours, theirs in NAMES.items():
        compare(f"loss {ours}", step.losses[ours], expected[f"loss/{theirs}"], rtol=1e-4)
    compare("loss, total", sum(step.losses.values()), expected["loss/total"], rtol=1e-5)


def test_gradients(step, expected, compare):
    """Batch norm's scale and offset are frozen: 150 parameters are trained, not 234."""
    assert step.gradients.keys() == set(expected["grad_names"])
    norms = np.array([np.linalg.norm(step.gradients[name]) for name in expected["grad_names"]])
    ratios = norms / expected["grad_l2"]
    compare("gradient norms of the parameters, ratio, median", np.median(np.abs(ratios - 1)), 0, atol=1e-3)
    compare("gradient norms of the parameters, ratio, worst", ratios, np.ones_like(ratios), atol=1e-2)


def test_mask_targets(expected, compare):
    """Paddle draws the polygon on the 28 x 28 cells of the RoI; ours averages the bitmap within each cell.

    They differ at the outline. Compared on each object's first RoI: the reference's polygons are arrays, which Paddle
    shifts and scales in place, so that from the second RoI on its targets are of something else. The arrays hold the
    polygons as they were after the last RoI; going back through all RoIs gives the first.
    """
    polygons, classes = expected["gt_poly"].copy(), expected["gt_class"][:, 0].tolist()
    for stage in (2, 1, 0):
        rois, labels = expected[f"mask{stage}_rois"], expected[f"mask{stage}_classes"]
        for (x1, y1, x2, y2), label in list(zip(rois, labels, strict=True))[::-1]:
            polygon = polygons[classes.index(label)]
            polygon[0::2] = polygon[0::2] * (x2 - x1) / 28 + x1
            polygon[1::2] = polygon[1::2] * (y2 - y1) / 28 + y1
    bounds = np.stack([polygons[:, side::2] for side in (0, 1)], axis=1)
    np.testing.assert_allclose(np.concatenate([bounds.min(-1), bounds.max(-1)], 1), expected["gt_bbox"], atol=1e-3)

    # Enlarged eight times, to about the size of COCO's images.
    scale, height, width = 8, 128, 160
    runs = coco_mask.frPyObjects((polygons * scale).tolist(), scale * height, scale * width)
    masks, frames = crop_masks([run["counts"] for run in runs], scale * height, scale * width, 112)
    rois = tf.constant(expected["mask0_rois"][np.newaxis, :, SWAP])
    matches = tf.constant([[classes.index(label) for label in expected["mask0_classes"]]])
    ours = mask_targets(tf.constant(masks[None]), tf.constant(frames[None] / scale), rois, matches)[0]
    differ = (ours.numpy() != targets_of(expected, 0)).mean()
    compare("share of mask targets that differ from rasterised polygons", differ, 0, atol=0.03)
    assert differ > 0.003
