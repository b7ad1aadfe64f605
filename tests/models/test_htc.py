"""The network: shapes of outputs, switches and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.models import layers
from htc_tf.ops import convolution
from htc_tf.structures import Detections, Outputs

SEED = tf.constant([0, 1])
# Untrained proposals hardly overlap an object: with a lower threshold some are positive.
EASY = [f"stage{number}/Stage.iou_threshold=0.05" for number in (1, 2, 3)]
ANCHORS = 3 * (16**2 + 8**2 + 4**2 + 2**2 + 1)


def run(model, batch):
    """Returns Outputs in training and Detections."""
    return model(batch.images, batch.sizes, batch.truth, SEED), model.infer(batch.images, batch.sizes)


@pytest.fixture(scope="module")
def full(tiny_model, drawn_batch):
    """The whole network, its outputs and detections, and a tape of its gradients."""
    _, model = tiny_model(*EASY)
    with tf.GradientTape(persistent=True) as tape:
        outputs, detections = run(model, drawn_batch)
    return model, outputs, detections, tape


def shapes(structure):
    return tf.nest.map_structure(lambda x: (tuple(x.shape), x.dtype), structure)


def test_outputs(full):
    model, outputs, _, _ = full
    assert isinstance(outputs, Outputs) and len(outputs.stages) == 3
    assert shapes(outputs.rpn._replace(proposals=outputs.rpn.proposals._asdict())._asdict()) == {
        "anchors": ((ANCHORS, 4), tf.float32),
        "logits": ((2, ANCHORS), tf.float32),
        "deltas": ((2, ANCHORS, 4), tf.float32),
        "proposals": {
            "boxes": ((2, 24, 4), tf.float32),
            "scores": ((2, 24), tf.float32),
            "valid": ((2, 24), tf.bool),
        },
    }
    for stage in outputs.stages:
        rois = {"boxes": ((2, 16, 4), tf.float32), "valid": ((2, 16), tf.bool), "positive": ((2, 16), tf.bool)}
        rois |= {"matches": ((2, 16), tf.int32), "is_truth": ((2, 16), tf.bool)}
        assert shapes(stage.rois._asdict()) == rois
        assert shapes(stage.logits) == ((2, 16, 9), tf.float32)
        assert shapes(stage.deltas) == shapes(stage.boxes) == ((2, 16, 4), tf.float32)
        assert shapes(stage.mask_rois.boxes) == ((2, 4, 4), tf.float32)
        assert shapes(stage.mask_logits) == ((2, 4, 28, 28, 8), tf.float32)
    assert [stage.target_stds for stage in outputs.stages] == [stage.target_stds for stage in model.stages]
    assert shapes(outputs.semantic.logits) == ((2, 8, 8, 13), tf.float32)
    assert shapes(outputs.valid) == ((2, 16), tf.bool)
    assert {level: tuple(maps.shape[1:3]) for level, maps in outputs.pyramid.items()} == {
        2: (16, 16),
        3: (8, 8),
        4: (4, 4),
        5: (2, 2),
        6: (1, 1),
    }


def test_every_convolution_uses_our_gradient_in_training(full, drawn_batch, monkeypatch):
    """Those larger than 1 x 1 at stride 1. TensorFlow's gradient is equal but takes gigabytes more on large images."""
    model, kernels = full[0], []
    monkeypatch.setattr(layers, "conv2d", lambda x, kernel: kernels.append(kernel) or convolution.conv2d(x, kernel))
    model.infer(drawn_batch.images, drawn_batch.sizes)
    assert not kernels
    model(drawn_batch.images, drawn_batch.sizes, drawn_batch.truth, SEED)
    expected = [
        layer.name
        for layer in model.submodules
        if isinstance(layer, layers.DenseConv2D) and layer.strides == (1, 1) and layer.kernel_size != (1, 1)
    ]
    seen = {kernel.numpy().tobytes() for kernel in kernels}
    assert len(expected) > 10 and len(seen) == len(expected)


def test_detections(full, drawn_batch):
    _, _, detections, _ = full
    assert isinstance(detections, Detections)
    assert shapes(detections._asdict()) == {
        "boxes": ((2, 10, 4), tf.float32),
        "scores": ((2, 10), tf.float32),
        "classes": ((2, 10), tf.int32),
        "valid": ((2, 10), tf.bool),
        "masks": ((2, 10, 28, 28), tf.float32),
        "stage_masks": ((2, 10, 3, 28, 28), tf.float32),
    }
    valid = detections.valid.numpy()
    assert valid.any(axis=1).all()
    boxes, scores = detections.boxes.numpy(), detections.scores.numpy()
    assert (boxes[valid] >= 0).all() and (boxes <= tf.tile(drawn_batch.sizes, [1, 2])[:, None]).numpy()[valid].all()
    assert (np.diff(scores)[valid[:, 1:]] <= 0).all() and (scores[valid] > 0.001).all()
    np.testing.assert_allclose(detections.masks, detections.stage_masks.numpy().mean(axis=2), atol=1e-6)
    masks = detections.masks.numpy()[valid]
    assert (masks >= 0).all() and (masks <= 1).all() and masks.std() > 0


def test_refined_ground_truth_boxes_are_dropped(full, drawn_batch):
    _, outputs, _, _ = full

    def rows(boxes, keep):
        return {tuple(box) for box in boxes.numpy()[keep.numpy()].tolist()}

    truth = rows(drawn_batch.truth.boxes, drawn_batch.truth.valid)
    for before, after in zip(outputs.stages, outputs.stages[1:], strict=False):
        refined = rows(before.boxes, before.rois.valid & ~before.rois.is_truth)
        dropped = rows(before.boxes, before.rois.is_truth) - refined
        assert dropped
        for rois in (after.rois, before.mask_rois):
            assert rows(rois.boxes, rois.is_truth) <= truth
            others = rows(rois.boxes, rois.valid & ~rois.is_truth)
            assert others <= refined and not others & dropped
    assert all(rows(stage.rois.boxes, stage.rois.is_truth) for stage in outputs.stages)


def test_boxes_get_no_gradient(full):
    model, outputs, _, tape = full
    stages = outputs.stages
    boxes = [outputs.rpn.proposals.boxes, *(stage.boxes for stage in stages), *(stage.rois.boxes for stage in stages)]
    assert not any(g is not None for box in boxes for g in tape.gradient(box, model.trainable_variables))
    # The RPN's deltas get gradients from the RPN's loss alone, a stage's from its own loss.
    later = [stage.logits for stage in stages] + [stage.mask_logits for stage in stages]
    early = [*model.rpn.deltas.trainable_variables, *model.stages[0].box_head.regressor.trainable_variables]
    assert not any(g is not None for g in tape.gradient(later, early))


def test_every_weight_has_a_gradient(full):
    model, outputs, _, tape = full
    everything = [outputs.rpn.logits, outputs.rpn.deltas, outputs.semantic.logits]
    everything += [field for stage in outputs.stages for field in (stage.logits, stage.deltas, stage.mask_logits)]
    gradients = tape.gradient(everything, model.trainable_variables)
    assert not [v.name for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None]


def test_masks_carry_gradients_through_the_information_flow(full):
    model, outputs, _, tape = full
    heads = [stage.mask_head for stage in model.stages]
    assert [len(head.flow_conv.trainable_variables) for head in heads] == [0, 2, 2]
    conv = heads[0].convs[0].trainable_variables
    assert all(g is not None for g in tape.gradient(outputs.stages[2].mask_logits, conv))
    # The first head's upsampling comes after the features that it passes on.
    assert not any(
        g is not None for g in tape.gradient(outputs.stages[2].mask_logits, heads[0].upsample.trainable_variables)
    )


def test_padding_is_zero_after_normalization(full):
    model = full[0]
    pixels = model.normalize(tf.fill([1, 2, 3, 3], tf.constant(255, tf.uint8)), tf.constant([[1.0, 2.0]])).numpy()
    white = [(255 - mean) / std for mean, std in zip((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), strict=True)]
    np.testing.assert_allclose(pixels[0, 0, 1], white, rtol=1e-5)
    assert not pixels[0, 1].any() and not pixels[0, 0, 2].any()


def count(*parts):
    return sum(len(part.variables) for part in parts)


@pytest.mark.parametrize("switches", [["NUM_STAGES=1"], ["MASKS=False"], ["SEMANTIC=False"]])
def test_switches_that_remove_parts(full, tiny_model, drawn_batch, switches):
    whole = full[0]
    _, model = tiny_model(*switches)
    gone = {
        "NUM_STAGES=1": whole.stages[1:],
        "MASKS=False": [stage.mask_head for stage in whole.stages],
        "SEMANTIC=False": [whole.semantic_head],
    }[switches[0]]
    assert count(model) == count(whole) - count(*gone) < count(whole)
    outputs, detections = run(model, drawn_batch)
    assert len(outputs.stages) == len(model.stages) == (1 if switches == ["NUM_STAGES=1"] else 3)
    assert (outputs.semantic is None) == (switches == ["SEMANTIC=False"])
    masks = [detections.masks, *(stage.mask_logits for stage in outputs.stages)]
    assert {mask is None for mask in masks} == {switches == ["MASKS=False"]}
    assert detections.valid.numpy().any()


def test_cascade_mask_rcnn(full, tiny_model, drawn_batch):
    _, model = tiny_model("INTERLEAVED=False", "MASK_INFO_FLOW=False", *EASY)
    assert count(model) == count(full[0]) - 4  # two 1x1 convolutions
    outputs, detections = run(model, drawn_batch)
    assert detections.masks.shape == (2, 10, 28, 28)
    for stage in outputs.stages:
        np.testing.assert_array_equal(stage.mask_rois.boxes, stage.rois.boxes[:, :4])
        np.testing.assert_array_equal(stage.mask_rois.valid, stage.rois.positive[:, :4])
    # Interleaved, at least one mask is trained on a box that its stage has moved.
    assert any((s.mask_rois.boxes.numpy() != s.rois.boxes[:, :4].numpy()).any() for s in full[1].stages)


def test_bfloat16_keeps_boxes_and_losses_in_float32(tiny_model, drawn_batch):
    """Gradients are in test_precision."""
    try:
        experiment, model = tiny_model("PRECISION='bfloat16'")
        outputs, detections = run(model, drawn_batch)
        losses = experiment.objective(outputs, drawn_batch.truth, drawn_batch.sizes, SEED)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    # Feature maps are in the precision of the convolutions; everything computed from them by the heads is not.
    read = outputs._replace(pyramid=None, features=None, semantic=outputs.semantic.logits)
    floating = [x for x in tf.nest.flatten((read, detections)) if tf.is_tensor(x) and x.dtype.is_floating]
    assert {x.dtype for x in floating} == {tf.float32}
    assert model.neck(model.backbone(tf.zeros([1, 64, 64, 3])))[2].dtype == tf.bfloat16
    assert {part.dtype for loss in losses.values() for part in (loss.total, loss.value)} == {tf.float32}
    assert all(np.isfinite(loss.value) for loss in losses.values())


def test_a_model_outlives_the_next_configuration(tiny_model):
    _, model = tiny_model()
    images, sizes = tf.zeros([1, 64, 64, 3], tf.uint8), tf.constant([[64.0, 64.0]])
    before = model.infer(images, sizes)
    config.load(["tests/tiny.gin"], [])
    np.testing.assert_array_equal(model.infer(images, sizes).scores, before.scores)
