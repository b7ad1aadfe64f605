"""SCNet against mmdetection's: heads, losses and gradients on fixed RoIs, boxes and masks in inference; switches.

The original is mmdetection 2 with drawn weights, see tests/reference/originals/scnet.py.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.models import htc_loss
from htc_tf.models import test_time_augmentation as tta
from htc_tf.models.residual import ResidualBlock, make_convs
from htc_tf.models.scnet import GlobalContextHead
from htc_tf.structures import Detections, GroundTruth, Proposals, RoIs, RPNOutput
from htc_tf.training.dry_run import Parts, flops, run_mask_heads
from htc_tf.training.frozen import find_parts
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
INPUTS = SimpleNamespace(**runpy.run_path(str(REFERENCE / "scnet_inputs.py")))
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))
SWAP = [1, 0, 3, 2]  # x1, y1, x2, y2 <-> y1, x1, y2, x2
HEADS = ("MaskHead", "SemanticHead", "GlobalContextHead", "FeatureRelay", "FPN")
TOY = (
    *(f"{head}.channels={INPUTS.CHANNELS}" for head in HEADS),
    *(f"BoxHead.channels={INPUTS.HIDDEN}", f"NUM_CLASSES={INPUTS.CLASSES}", f"NUM_LABELS={INPUTS.LABELS}"),
    f"RoIPooler.canonical_scale={INPUTS.SCALE}",
)
SIZES = tf.constant([[INPUTS.HEIGHT, INPUTS.WIDTH]] * INPUTS.IMAGES, tf.float32)
# Names of the original's losses: a sum over the weights of all stages is the weight of its masks.
LOSSES = {
    "semantic": "loss_semantic_seg",
    "context": "loss_glbctx",
    "stage3_mask": "loss_mask",
    **{f"stage{n + 1}_class": f"s{n}.loss_cls" for n in range(3)},
    **{f"stage{n + 1}_box": f"s{n}.loss_bbox" for n in range(3)},
}


def make_model(*params):
    """Returns an Experiment and its SCNet with drawn weights. Backbone and neck are not built."""
    experiment, _ = config.load(["gin/scnet/scnet_r50_fpn_1x_coco.gin"], [*TOY, *params])
    model = experiment.build_model()
    model.backbone, model.neck = (lambda *_, **__: None), (lambda *_, **__: maps())
    model.rpn = lambda *_: rpn()
    model.infer(tf.zeros([INPUTS.IMAGES, 64, 96, 3], tf.uint8), SIZES)
    model.built = True  # in part
    drawn = DRAWN["state_dict"]({name: array.shape for name, array in mmdet_arrays(model).items()})
    assert load_mmdet(model, {n: a * np.float32(INPUTS.damp(n)) for n, a in drawn.items()}) == Unmatched([], [], [])
    return experiment, model


@pytest.fixture(scope="module")
def scnet():
    return make_model()


def maps():
    return {level: tf.constant(x) for level, x in enumerate(INPUTS.pyramid(), start=2)}


def rpn():
    boxes = tf.constant(INPUTS.boxes(INPUTS.ROIS, 60)[..., SWAP])
    return RPNOutput(None, None, None, Proposals(boxes, None, tf.ones(boxes.shape[:2], tf.bool)))


def truth():
    boxes, classes = INPUTS.objects()
    nothing = {"masks": tf.zeros([*classes.shape, 1, 1], tf.uint8), "crop_boxes": tf.zeros(boxes.shape)}
    return GroundTruth(
        boxes=tf.constant(boxes[..., SWAP]),
        classes=tf.constant(classes, tf.int32),
        valid=tf.ones(classes.shape, tf.bool),
        semantic=tf.constant(INPUTS.labels(), tf.int32),
        **nothing,
    )


class FixedSampler:
    """Stands in for RoISampler: returns the RoIs of the stage that has this IoU threshold."""

    def __call__(self, boxes, valid, truth, iou_threshold, seed):
        stage = {0.5: 0, 0.6: 1, 0.7: 2}[iou_threshold]
        positive = tf.constant(INPUTS.positive(stage))
        boxes, matches = INPUTS.rois(stage)[..., SWAP], INPUTS.matches(stage)
        everywhere = tf.ones_like(positive)
        return RoIs(tf.constant(boxes), everywhere, positive, tf.constant(matches, tf.int32), ~everywhere)

    def positives(self, rois):
        return rois._replace(valid=rois.positive)


def near(found, expected, name, within=1e-5):
    """Compares within a fraction of the largest value."""
    np.testing.assert_allclose(found, expected, atol=within * np.abs(expected).max(), rtol=0, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_heads_are_the_originals(compiled, scnet, reference):
    expected = reference("scnet")
    _, model = scnet

    @tf.function(jit_compile=compiled, autograph=False)
    def run():
        return model.semantic_head(maps()), model.context_head(maps())

    semantic, context = run()
    near(semantic.logits, expected["semantic_logits"], "semantic_logits")
    near(semantic.embedding, expected["embedding"], "embedding")
    near(context.logits, expected["context_logits"], "context_logits")
    near(context.embedding, expected["context"], "context")


def test_xla_of_the_relay_and_the_mask_head(scnet):
    """Compiled they give the same numbers and gradients; the walk around them is HTC's."""
    head, relay = scnet[1].mask_heads[0], scnet[1].relay
    draw = np.random.RandomState(0)
    hidden, pooled = (tf.constant(draw.standard_normal(s), tf.float32) for s in ([3, 16], [3, 14, 14, 8]))
    variables = [*relay.trainable_variables, *head.convs[0].trainable_variables]

    def learn():
        with tf.GradientTape() as tape:
            logits = head(head.extract_features(pooled + relay(hidden, 14), training=True))
        return logits, *tape.gradient(logits, variables)

    for found, expected in zip(tf.function(learn, jit_compile=True, autograph=False)(), learn(), strict=True):
        near(found, expected.numpy(), "compiled")


def test_inference_is_the_originals(scnet, reference):
    """Three stages, then the relay and the mask head on the boxes that NMS would keep: here the last stage's RoIs."""
    expected = reference("scnet")
    _, model = scnet

    def detect():
        outputs = model.run_cascade(maps(), rpn(), SIZES, None, None, False)
        logits = tf.add_n([stage.logits for stage in outputs.stages]) / 3
        rois = outputs.stages[-1].rois
        classes = tf.argmax(logits[..., :-1], axis=-1, output_type=tf.int32)
        found = Detections(rois.boxes, tf.zeros_like(classes), classes, rois.valid)
        return logits, outputs.stages[-1].deltas, rois.boxes, model.stage_masks(outputs.features, found)

    logits, deltas, boxes, masks = detect()
    near(logits, expected["logits"], "logits")
    near(deltas, expected["deltas"][..., SWAP], "deltas")
    near(boxes, expected["rois"][..., 1:][..., SWAP], "boxes")
    assert masks.shape == (2, 12, 1, 28, 28)
    near(masks[:, :, 0], expected["masks"], "masks")


def test_losses_and_gradients_are_the_originals(scnet, reference, monkeypatch):
    """The weights of all losses included. The mask head is trained on the positives of the last stage's box head."""
    expected = reference("scnet")
    experiment, model = scnet
    monkeypatch.setattr(model, "roi_sampler", FixedSampler())
    monkeypatch.setattr(htc_loss, "mask_targets", lambda *_: tf.constant(INPUTS.mask_targets()))
    objective = experiment.objective
    monkeypatch.setattr(objective, "rpn", lambda *_: {})
    table = {entry.name: entry for entry in entries(model)}
    prefix = "gradient_roi_head."
    wanted = {name: table[name.removeprefix("gradient_")] for name in expected if name.startswith(prefix)}
    assert len(wanted) == 15

    def learn():
        pyramid = maps()
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            outputs = model.run_cascade(pyramid, rpn(), SIZES, truth(), tf.constant([0, 0]), True)
            losses = {name: loss.value for name, loss in objective(outputs, truth(), SIZES, None).items()}
            total = tf.add_n(list(losses.values()))
        return losses, tape.gradient(total, [pyramid, [entry.variable for entry in wanted.values()]])

    losses, (of_maps, of_weights) = learn()
    assert losses.keys() == LOSSES.keys()
    for name, theirs in LOSSES.items():
        near(losses[name], expected[f"loss_{theirs}"], name)
    for level, gradient in of_maps.items():
        near(gradient, expected[f"gradient_P{level}"], f"P{level}", 1e-4)
    for (name, entry), gradient in zip(wanted.items(), of_weights, strict=True):
        near(entry.layout.theirs(gradient.numpy(), model), expected[name], name, 1e-4)


# Untrained proposals hardly overlap an object: with a lower threshold some are positive.
EASY = [f"stage{number}/Stage.iou_threshold=0.05" for number in (1, 2, 3)]


def test_every_weight_is_trained_and_only_the_last_stage_has_masks(tiny_scnet, drawn_batch, make_learner):
    experiment, model = tiny_scnet(*EASY)
    outputs = model(drawn_batch.images, drawn_batch.sizes, drawn_batch.truth, tf.constant([0, 1]))
    *first, last = outputs.stages
    assert all(stage.mask_logits is None for stage in first) and last.mask_logits.shape == (2, 4, 28, 28, 8)
    np.testing.assert_array_equal(last.mask_rois.boxes, last.rois.boxes[:, :4])
    losses, gradients = make_learner(experiment, model)(drawn_batch)
    assert [name for name in losses if "mask" in name or name == "context"] == ["stage3_mask", "context"]
    assert not [v.name for v, g in zip(model.trainable_variables, gradients, strict=True) if g is None]
    found = model.infer(drawn_batch.images, drawn_batch.sizes)
    assert found.stage_masks.shape == (2, 10, 1, 28, 28)
    np.testing.assert_array_equal(found.masks, found.stage_masks[:, :, 0])


def test_bfloat16(tiny_scnet, drawn_batch, make_learner):
    try:
        experiment, model = tiny_scnet("PRECISION='bfloat16'", *EASY)
        outputs = model(drawn_batch.images, drawn_batch.sizes)
        losses, gradients = make_learner(experiment, model)(drawn_batch)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert {x.dtype for x in (*outputs.context, outputs.stages[2].logits)} == {tf.float32}
    assert all(np.isfinite(value) for value in losses.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_all_that_runs_the_heads_itself_runs_scnet(tiny_scnet, drawn_batch):
    """Test-time augmentation of one view is a single pass; the dry run's one mask head has 2 x 3x3 convolutions."""
    _, model = tiny_scnet()
    images, sizes = drawn_batch.images, drawn_batch.sizes
    wanted, found = model.infer(images, sizes), tta.TestTimeAugmentation((1.0,), flip=False)(model, images, sizes)
    assert wanted.valid.numpy().any()
    np.testing.assert_allclose(found.masks, wanted.masks, atol=1e-3)
    for training in (False, True):
        call = tf.function(lambda training=training: run_mask_heads(model, 5, training), autograph=False)
        pairs = flops(call.get_concrete_function().graph)
        convs, cells = 2 * 9 * 16 * 16, 5 * 14 * 14
        logits = 2 * cells * 4 * 16 * 16 + 2 * 4 * cells * 16 * 8
        assert sum(n for name, n in pairs if "conv2d" in name.lower()) == 2 * cells * convs + logits
    parts = Parts(model).add((variable.name, 1) for variable in model.variables)
    assert (parts["context head"], parts["relay"], "other" in parts) == (6, 2, False)
    assert {"context head", "relay"} <= find_parts(model).keys()


def test_each_part_can_be_added_to_htc(tiny_model, drawn_batch):
    relay = ("HTC.relay=@FeatureRelay()", "FeatureRelay.channels=16")
    _, model = tiny_model(*relay, "MaskHead.residual=True", "MaskHead.num_convs=2")
    outputs = model(drawn_batch.images, drawn_batch.sizes, drawn_batch.truth, tf.constant([0, 1]))
    assert outputs.context is None and outputs.stages[0].mask_logits is not None
    found = model.infer(drawn_batch.images, drawn_batch.sizes)
    assert found.stage_masks.shape == (2, 10, 3, 28, 28)
    features = model.mask_features(outputs.features, RoIs(found.boxes, found.valid))
    model.relay.expand.bias.assign_add(tf.ones_like(model.relay.expand.bias))
    np.testing.assert_allclose(
        model.mask_features(outputs.features, RoIs(found.boxes, found.valid)), features + 1, atol=1e-4
    )


def test_mistakes(tiny_scnet):
    with pytest.raises(UserError, match=r"MaskHead\.num_convs = 3: give an even number"):
        make_convs("MaskHead", 8, 3, residual=True)
    with pytest.raises(UserError, match=r"MaskHead\.channels = 8, but its residual blocks receive 4"):
        ResidualBlock("MaskHead", 8)(tf.zeros([1, 2, 2, 4]))
    with pytest.raises(UserError, match=r"FeatureRelay.channels = 8, but FPN.channels = 16"):
        tiny_scnet("FeatureRelay.channels=8")
    with pytest.raises(UserError, match=r"none of 2 stages has a Stage\.mask_head: bind one"):
        tiny_scnet("NUM_STAGES=2")
    for params in (["BoxHead.norm='batch'"], ["BoxHead.num_convs=1", "BoxHead.conv_norm='sync_batch'"]):
        with pytest.raises(UserError, match=r"BoxHead\.norm and conv_norm must not be 'batch'"):
            tiny_scnet(*params)
    with pytest.raises(UserError, match=r"GlobalContextHead.num_classes"):
        GlobalContextHead(0)
