"""A training step of HTC R50-FPN has mmdetection 3.3.0's samples, losses and gradients.

The arrays are tests/reference/train_tiny.npz: the reference's proposals take the place of the RPN's, and every
sampler takes evenly spaced candidates, so that nothing is left to chance. The RoI samplers have fewer candidates (65)
and positives (44) than the paper's limits, so limits just above change nothing but the time. What the sampler makes of
given boxes is also compared in the medium case (train_medium_samples.npz), where objects compete.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.engine.weights import entries
from htc_tf.models.objective import Objective
from htc_tf.models.targets import AnchorSampler, RoISampler
from htc_tf.ops.matching import choose_evenly
from htc_tf.structures import Proposals, RoIs, Truth

SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
NAMES = {"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_bbox", "semantic": "loss_semantic_seg"} | {
    f"stage{stage + 1}_{ours}": f"s{stage}.loss_{theirs}"
    for stage in range(3)
    for ours, theirs in (("class", "cls"), ("box", "bbox"), ("mask", "mask"))
}


def evenly(seed):
    del seed
    return choose_evenly


class SparingSampler(RoISampler):
    """Gives the mask branch no padding."""

    def positives(self, rois):
        most = int(tf.reduce_max(tf.math.count_nonzero(rois.positive, axis=1)))
        return super().positives(RoIs(*(part[:, :most] for part in rois)))


def truth_of(expected, shape, sizes):
    """Whole bitmaps as masks: their frame is the padded image."""
    height, width = shape
    masks = np.zeros([2, 5, height, width], np.uint8)
    for row, (rows, columns) in enumerate(sizes.numpy().astype(int)):
        bitmaps = np.unpackbits(expected[f"gt_masks_{row}"], axis=-1)[..., :columns]
        masks[row, :, :rows, :columns] = 255 * bitmaps
    return Truth(
        boxes=tf.constant(np.stack([expected[f"gt_boxes_{row}"][:, SWAP] for row in range(2)])),
        classes=tf.constant(np.stack([expected[f"gt_labels_{row}"] for row in range(2)]), tf.int32),
        valid=tf.ones([2, 5], tf.bool),
        masks=tf.constant(masks),
        mask_frames=tf.tile(tf.constant([[[0.0, 0.0, height, width]]]), [2, 5, 1]),
        semantic=tf.constant(expected["sem_padded"][:, ::8, ::8], tf.int32),
    )


@pytest.fixture(scope="module")
def expected():
    return np.load(Path(__file__).resolve().parent.parent / "reference" / "train_tiny.npz")


@pytest.fixture(scope="module")
def step(mmdet_model, tiny_batch, expected):
    """(Outputs, {name: loss}, {mmdetection's name: gradient in its layout}) of one training step."""
    images, sizes = tiny_batch
    truth = truth_of(expected, images.shape[1:3], sizes)
    boxes = tf.constant(np.stack([expected[f"proposals_{row}"][:, SWAP] for row in range(2)]))
    proposals = Proposals(boxes, tf.ones(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool))
    sampler = SparingSampler(limit=65, positive_fraction=0.7, choose=evenly)
    objective = Objective(AnchorSampler(choose=evenly))
    trained = {id(variable) for variable in mmdet_model.trainable_variables}
    table = [entry for entry in entries(mmdet_model) if id(entry.variable) in trained]
    seed = tf.constant([0, 0])
    with pytest.MonkeyPatch.context() as patch, tf.GradientTape() as tape:
        patch.setattr(mmdet_model.rpn, "propose", lambda *_: proposals)
        patch.setattr(mmdet_model, "roi_sampler", sampler)
        outputs = mmdet_model(images, sizes, truth, seed)
        named = objective(outputs, truth, sizes, seed)
        losses = {name: loss.weight * loss.total / tf.maximum(loss.count, 1) for name, loss in named.items()}
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, [entry.variable for entry in table])
    pairs = zip(table, gradients, strict=True)
    return outputs, losses, {e.name: e.layout.theirs(gradient.numpy(), mmdet_model) for e, gradient in pairs}


def test_samples(step, expected):
    outputs = step[0]
    for index, stage in enumerate(outputs.stages):
        for branch, rois in (("box", stage.rois), ("mask", stage.mask_rois)):
            for row in range(2):
                name = f"s{index}_{branch}_{row}"
                positive = rois.positive[row].numpy()
                np.testing.assert_array_equal(
                    rois.matches[row].numpy()[positive], expected[f"{name}_pos_assigned"], name
                )
                boxes = rois.boxes[row].numpy()[positive][:, SWAP]
                # As near as boxes refined in float32 can be.
                np.testing.assert_allclose(boxes, expected[f"{name}_pos_priors"], rtol=0, atol=2e-3, err_msg=name)
                if branch == "box":
                    negatives = rois.valid[row].numpy().sum() - positive.sum()
                    assert negatives == len(expected[f"{name}_neg_inds"]), name


@pytest.mark.parametrize("branch", ["box", "mask"])
@pytest.mark.parametrize(("stage", "threshold"), [(0, 0.5), (1, 0.6), (2, 0.7)])
def test_samples_of_given_boxes(reference, stage, threshold, branch):
    """Here objects take boxes that overlap another object more: the truth itself must not compete for them."""
    expected = reference("train_medium_samples")
    name = f"s{stage}_{branch}_0"
    objects = tf.constant(expected["gt_boxes_0"][np.newaxis, :, SWAP])
    boxes = tf.constant(expected[f"{name}_priors"][np.newaxis, :, SWAP])
    truth = Truth(objects, None, tf.ones(objects.shape[:2], tf.bool), None, None, None)
    sampler = RoISampler(limit=120, positive_fraction=1.0, choose=evenly)
    rois = sampler(boxes, tf.ones(boxes.shape[:2], tf.bool), truth, threshold, seed=None)
    everything = tf.concat([objects, boxes], axis=1)[0].numpy()
    positive, valid = rois.positive[0].numpy(), rois.valid[0].numpy()
    np.testing.assert_array_equal(rois.boxes[0].numpy()[positive], everything[expected[f"{name}_pos_inds"]])
    np.testing.assert_array_equal(rois.boxes[0].numpy()[valid & ~positive], everything[expected[f"{name}_neg_inds"]])
    np.testing.assert_array_equal(rois.matches[0].numpy()[positive], expected[f"{name}_pos_assigned"])
    np.testing.assert_array_equal(np.flatnonzero(rois.is_truth[0]), np.arange(objects.shape[1]))


def test_losses(step, expected):
    losses = step[1]
    assert losses.keys() == NAMES.keys()
    for ours, theirs in NAMES.items():
        np.testing.assert_allclose(losses[ours], expected[f"loss/{theirs}"].sum(), rtol=1e-4, err_msg=ours)
    np.testing.assert_allclose(sum(losses.values()), expected["loss/total"], rtol=1e-5)


def test_what_trains(mmdet_model, step, expected):
    """Stem and first stage are frozen; everything else trains, batch norm's scale and offset included."""
    assert step[2].keys() == set(expected["grad_names"])
    running = ("running_mean", "running_var")
    rest = {entry.name for entry in entries(mmdet_model) if not entry.name.endswith(running)} - step[2].keys()
    assert rest == set(expected["no_grad_names"])


def test_gradients(step, expected):
    """Layers behind ReLUs are noisy to 1e-3 in mmdetection itself; single values, to 1e-2 of the norm."""
    gradients = step[2]
    norms = np.array([np.linalg.norm(gradients[name]) for name in expected["grad_names"]])
    difference = np.abs(norms - expected["grad_norm"]) / expected["grad_norm"]
    assert np.median(difference) < 1e-3
    assert difference.max() < 1e-2, expected["grad_names"][difference.argmax()]
    sampled = [key for key in expected.files if key.startswith("grad/") and not key.endswith("@step")]
    assert len(sampled) > 20
    for key in sampled:
        ours, theirs = gradients[key.removeprefix("grad/")].ravel()[:: expected[f"{key}@step"]], expected[key]
        assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs), key
