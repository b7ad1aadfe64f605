"""HTCLoss: golden sums and counts, batches without objects or proposals, and a few steps of training."""

import math

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.htc_loss import HTCLoss
from htc_tf.models.losses import GIoULoss
from htc_tf.models.targets import AnchorSampler
from htc_tf.ops.matching import subsample_evenly
from htc_tf.structures import ContextOutput, GroundTruth, Outputs, RoIs, RPNOutput, SemanticOutput, StageOutput

SEED = tf.constant([0, 1])
SIZES = tf.constant([[64.0, 64.0]])
NAN = float("nan")
EVENLY = AnchorSampler(inside_only=False, choose=lambda seed: subsample_evenly)


def tensor(values, dtype=tf.float32):
    return tf.constant(values, dtype)[tf.newaxis]


TRUTH = GroundTruth(
    boxes=tensor([[1, 0, 11, 10], [0, 0, 0, 0]]),
    classes=tensor([1, 0], tf.int32),
    valid=tensor([True, False], tf.bool),
    masks=tf.fill([1, 2, 4, 4], tf.constant(255, tf.uint8)),
    crop_boxes=tensor([[-20, -20, 40, 40], [0, 0, 0, 0]]),
    semantic=tensor([[0, 1], [255, 2]], tf.int32),
)
RPN = RPNOutput(
    anchors=tf.constant([[1.0, 0, 11, 10], [1, 0, 11, 20], [40, 40, 50, 50]]),
    logits=tensor([0, NAN, math.log(3)]),  # IoU 0.5 with the object: neither positive nor negative
    deltas=tensor([[1, 0.05, 0, 0], [NAN] * 4, [5, 5, 5, 5]]),
    proposals=None,
)
MASK_LOGITS = np.full([2, 28, 28, 2], -100.0)
MASK_LOGITS[0, :, :, 1] = 3  # the object's class
STAGE = StageOutput(
    rois=RoIs(
        boxes=tensor([[0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]),
        valid=tensor([True, True, False], tf.bool),
        positive=tensor([True, False, False], tf.bool),
        matches=tensor([0, 0, 0], tf.int32),
    ),
    target_stds=(0.1, 0.1, 0.2, 0.2),
    logits=tensor([[0, 0, 0], [0, 0, math.log(2)], [NAN] * 3]),
    deltas=tensor([[1.5, 0, 0, 2], [7, 7, 7, 7], [NAN] * 4]),
    boxes=None,
    mask_rois=RoIs(
        boxes=tensor([[0, 0, 10, 10], [0, 0, 0, 0]]),
        valid=tensor([True, False], tf.bool),
        positive=tensor([True, False], tf.bool),
        matches=tensor([0, 0], tf.int32),
    ),
    mask_logits=tensor(MASK_LOGITS),
)
OUTPUTS = Outputs(
    pyramid=None,
    rpn=RPN,
    stages=(STAGE, STAGE, STAGE),
    valid=None,
    features=None,
    semantic=SemanticOutput(tf.zeros([1, 2, 2, 3]), None),
)


def compute(outputs=None, **arguments):
    objective = HTCLoss(EVENLY, **arguments)
    return objective(outputs or OUTPUTS, TRUTH, SIZES, SEED)


def check(loss, total, count, weight):
    np.testing.assert_allclose(loss.total, total, rtol=1e-6)
    assert (float(loss.count), loss.weight) == (count, weight)


def test_names():
    stages = [f"stage{t}_{name}" for t in (1, 2, 3) for name in ("class", "box", "mask")]
    assert list(compute()) == ["rpn_class", "rpn_box", *stages, "semantic"]
    bare = OUTPUTS._replace(stages=(STAGE._replace(mask_logits=None),), semantic=None)
    assert list(compute(bare)) == ["rpn_class", "rpn_box", "stage1_class", "stage1_box"]


def test_rpn():
    losses = compute()
    # -log(1/2) of the positive, -log(1/4) of the negative.
    check(losses["rpn_class"], math.log(2) + math.log(4), 2, 1.0)
    # |1| - beta / 2 and 0.05^2 / (2 beta), beta = 1/9; divided by all that are sampled.
    check(losses["rpn_box"], 1 - 1 / 18 + 0.05**2 * 9 / 2, 2, 1.0)


def test_stage():
    losses = compute()
    for number, weight in enumerate((1.0, 0.5, 0.25), start=1):
        # 1/3 for the object's class, 1/2 for background.
        check(losses[f"stage{number}_class"], math.log(3) + math.log(2), 2, weight)
        # The object is a tenth of the RoI lower, one unit of target_stds: errors of 0.5 and 2 remain.
        check(losses[f"stage{number}_box"], 0.125 + 1.5, 2, weight)
        check(losses[f"stage{number}_mask"], math.log(1 + math.exp(-3)), 1, weight)
    check(compute(stage_weights=(2.0, 3.0, 4.0))["stage3_box"], 1.625, 2, 4.0)
    check(compute(box_beta=0.25)["stage1_box"], 0.375 + 1.875, 2, 1.0)
    check(compute(rpn_beta=1.0)["rpn_box"], 0.5 + 0.00125, 2, 1.0)
    plain = compute(rpn_beta=0, box_beta=0)
    check(plain["stage1_box"], 0.5 + 2, 2, 1.0)
    check(plain["rpn_box"], 1 + 0.05, 2, 1.0)


def test_semantic_ignores_unlabeled_pixels():
    check(compute()["semantic"], 3 * math.log(3), 4, 0.2)
    check(compute(semantic_mean="valid", semantic_weight=0.5)["semantic"], 3 * math.log(3), 3, 0.5)
    with pytest.raises(UserError, match="semantic_mean"):
        HTCLoss(semantic_mean="some")


def test_context_of_the_classes_in_an_image():
    """Class 1 is in the image; class 0 only pads the list of objects."""
    outputs = OUTPUTS._replace(context=ContextOutput(tensor([0, math.log(3)]), None))
    check(compute(outputs)["context"], math.log(2) + math.log(4 / 3), 2, 3.0)
    check(compute(outputs, context_weight=0.5)["context"], math.log(2) + math.log(4 / 3), 2, 0.5)


def test_masks_may_have_weights_of_their_own():
    losses = compute(mask_weights=(0.0, 0.0, 1.75))
    weights = {name: [losses[f"stage{t}_{name}"].weight for t in (1, 2, 3)] for name in ("class", "box", "mask")}
    assert weights == {"class": [1.0, 0.5, 0.25], "box": [1.0, 0.5, 0.25], "mask": [0.0, 0.0, 1.75]}


@pytest.mark.parametrize("name", ["rpn_class_loss", "class_loss", "box_loss", "mask_loss"])
@pytest.mark.parametrize("loss", ["giou", GIoULoss])
def test_a_loss_must_be_an_object(name, loss):
    with pytest.raises(UserError, match=rf"HTCLoss.{name} (is not a loss: |= @GIoULoss).*@GIoULoss\(\)"):
        HTCLoss(**{name: loss})


def test_every_stage_needs_a_weight():
    with pytest.raises(UserError, match="stage_weights"):
        compute(stage_weights=(1.0, 0.5))
    with pytest.raises(UserError, match="mask_weights"):
        compute(mask_weights=(1.0, 0.5))


def without_objects(batch):
    """A batch as the input pipeline pads images without objects, or with crowd regions alone."""
    truth = GroundTruth(*(tf.zeros_like(field) for field in batch.truth))
    return batch._replace(truth=truth._replace(semantic=batch.truth.semantic))


BATCHES = {
    "ordinary": lambda batch: batch,
    "no objects": without_objects,
    "nothing valid": lambda batch: batch._replace(truth=batch.truth._replace(valid=tf.zeros_like(batch.truth.valid))),
    "no labels": lambda batch: batch._replace(
        truth=without_objects(batch).truth._replace(semantic=tf.fill(batch.truth.semantic.shape, 255))
    ),
    "one image without objects": lambda batch: batch._replace(
        truth=batch.truth._replace(valid=batch.truth.valid & [[True], [False]])
    ),
}


@pytest.mark.parametrize("proposals", [True, False])
@pytest.mark.parametrize("name", BATCHES)
def test_any_batch_has_finite_losses_and_gradients(tiny_learner, drawn_batch, name, proposals):
    tiny_learner.proposals.assign(proposals)
    losses, gradients = tiny_learner.traced(BATCHES[name](drawn_batch))
    tiny_learner.proposals.assign(True)
    losses = {key: float(value) for key, value in losses.items()}
    assert all(math.isfinite(value) and value >= 0 for value in losses.values()), losses
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    empty = name in ("no objects", "nothing valid", "no labels")
    for key in ("rpn_box", "stage1_box", "stage1_mask", "stage2_box", "stage2_mask"):
        assert (losses[key] == 0) == empty, key
    assert (losses["semantic"] == 0) == (name == "no labels")
    assert (losses["stage1_class"] == 0) == (empty and not proposals)


def test_padding_objects_have_no_effect(tiny_learner, drawn_batch):
    one, other = (tiny_learner.traced(BATCHES[name](drawn_batch))[0] for name in ("no objects", "nothing valid"))
    assert {key: float(value) for key, value in one.items()} == {key: float(value) for key, value in other.items()}


def test_eager_and_traced_agree(tiny_learner, drawn_batch):
    for batch in (drawn_batch, without_objects(drawn_batch)):
        (traced, _), (eager, _) = tiny_learner.traced(batch), tiny_learner.eager(batch)
        for name, value in traced.items():
            np.testing.assert_allclose(value, eager[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_two_images_are_learned(tiny_learner, drawn_batch):
    model = tiny_learner.model
    before = model.get_weights()
    optimizer = tf.keras.optimizers.Adam(3e-3)
    totals = []
    for _ in range(40):
        losses, gradients = tiny_learner.traced(drawn_batch)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        totals.append(float(losses["total"]))
    model.set_weights(before)
    assert min(totals[-5:]) < 0.7 * totals[0], totals
