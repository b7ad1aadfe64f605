"""The box head of convolutions against mmdetection's; XLA, precision, and the default head of two hidden layers."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.models.box_head import BoxHead
from htc_tf.models.htc_loss import HTCLoss
from htc_tf.models.losses import GIoULoss
from htc_tf.structures import GroundTruth, RoIs, StageOutput
from htc_tf.weights import Unmatched, entries, load_mmdet

DRAWN = runpy.run_path(str(Path(__file__).resolve().parents[1] / "reference" / "drawn_weights.py"))
SIZES = {"num_classes": 3, "channels": 16, "class_agnostic": False, "num_hidden": 1, "num_convs": 2, "conv_channels": 8}
STDS = (0.05, 0.05, 0.1, 0.1)
SWAP = [1, 0, 3, 2]  # between (x, y, ...) there and (y, x, ...) here


def network(head):
    """The part of a detector with one stage that the tables of names read."""
    stages = [SimpleNamespace(box_head=head)]
    return SimpleNamespace(stages=stages, roi_pooler=SimpleNamespace(box_size=7), built=True, variables=head.variables)


def make_head(norm="batch"):
    """Returns a head with the weights of the reference arrays."""
    head = BoxHead(**SIZES, conv_norm=norm)
    head(tf.zeros([1, 7, 7, 8]))
    found = entries(network(head))
    shapes = {entry.name: entry.their_shape(network(head)) for entry in found}
    assert load_mmdet(network(head), DRAWN["state_dict"](shapes)) == Unmatched([], [], [])
    return head


@pytest.fixture
def pooled():
    return tf.transpose(tf.constant(DRAWN["parameter"]("pooled.features", (6, 8, 7, 7)) * 4), [0, 2, 3, 1])


def close(found, expected, share):
    np.testing.assert_allclose(found, expected, atol=share * abs(expected).max())


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_are_those_of_mmdetection(norm, training, pooled, reference):
    expected = reference("swin")
    head = make_head(norm)
    for run in (head, tf.function(make_head(norm), jit_compile=True, autograph=False)):
        logits, deltas = run(pooled, training=training)
        close(logits, expected[f"head_logits_{training}"], 1e-5)
        close(tf.gather(deltas, SWAP, axis=2), expected[f"head_deltas_{training}"].reshape(6, 3, 4), 1e-5)
    if training:
        close(head.convs[1].norm.moving_mean, expected["head_mean"], 1e-5)
        # PyTorch's moving variance has the unbiased estimate of 6 x 7 x 7 cells, ours the other; 0.1 is the step.
        drawn = DRAWN["parameter"]("roi_head.bbox_head.shared_convs.1.bn.running_var", (8,))
        step = head.convs[1].norm.moving_variance - 0.9 * drawn
        fused = norm == "batch"
        close(step * (1 if fused else 294 / 293), expected["head_variance"] - 0.9 * drawn, 1e-4)


def test_loss_of_decoded_boxes_and_gradients_are_those_of_mmdetection(pooled, reference):
    expected = reference("swin")
    head = make_head()
    table = {entry.name: entry for entry in entries(network(head))}
    prefix = "head_gradient_"
    wanted = {name: table[f"roi_head.bbox_head.{name.removeprefix(prefix)}"] for name in expected if prefix in name}
    labels, boxes = expected["head_labels"], expected["head_rois"][:, SWAP]
    truth = GroundTruth(
        tf.constant(expected["head_truth"][np.newaxis][..., SWAP]),
        tf.constant(labels[np.newaxis] % 3, tf.int32),
        *[None] * (len(GroundTruth._fields) - 2),
    )
    rois = RoIs(
        tf.constant(boxes[np.newaxis]),
        tf.ones([1, 6], bool),
        positive=tf.constant(labels[np.newaxis] < 3),
        matches=tf.range(6)[tf.newaxis],
    )
    objective = HTCLoss(box_loss=GIoULoss(10.0))
    with tf.GradientTape() as tape:
        logits, deltas = head(pooled, training=True)
        stage = StageOutput(rois, STDS, logits[tf.newaxis], deltas[tf.newaxis], None)
        found = objective.stage(stage, truth)["box"]
        loss = found.total / found.count
        total = tf.reduce_sum(logits * DRAWN["waves"](logits.shape)) + loss
    np.testing.assert_allclose(loss, expected["head_loss"], rtol=1e-5)
    gradients = tape.gradient(total, [entry.variable for entry in wanted.values()])
    assert len(wanted) == 4
    for (name, entry), gradient in zip(wanted.items(), gradients, strict=True):
        close(entry.layout.theirs(gradient.numpy(), network(head)), expected[name], 1e-4)


def test_bfloat16(pooled, reference):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        for norm in ("batch", "sync_batch", "channel"):
            found = make_head(norm)(tf.cast(pooled, tf.bfloat16))
            assert [x.dtype for x in found] == [tf.float32] * 2
            if norm != "channel":
                expected = reference("swin")["head_logits_False"]
                assert np.sqrt(np.mean((found[0] - expected) ** 2)) < 0.03 * np.std(expected)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")


def test_a_norm_over_the_channels_of_every_cell(pooled):
    head = make_head("channel")
    norm = head.convs[0].norm
    x = tf.nn.conv2d(pooled, head.convs[0].convolution.kernel, 1, "SAME").numpy().astype(np.float64)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = np.maximum((x - mean) / np.sqrt(variance + 1e-6) * norm.gamma + norm.beta, 0)
    np.testing.assert_allclose(head.convs[0](pooled), expected, atol=1e-5)


def test_the_default_head_is_two_hidden_layers():
    head = BoxHead(3, 16)
    x = tf.random.stateless_normal([2, 7, 7, 4], [1, 2])
    logits, deltas = head(x)
    hidden = tf.nn.relu(head.hidden[1](tf.nn.relu(head.hidden[0](tf.reshape(x, [2, -1])))))
    np.testing.assert_array_equal(logits, head.classifier(hidden))
    np.testing.assert_array_equal(deltas, head.regressor(hidden))
    assert not head.convs and len(head.variables) == 8


@pytest.mark.parametrize("compiled", [False, True])
def test_a_factor_of_the_gradient_of_the_features(compiled, pooled):
    """The outputs and the gradients of the head's weights are the same without it."""
    pooled, found = pooled[..., :2], []
    for factor in (1.0, 0.25):
        head = BoxHead(3, 4, feature_gradient=factor)
        head(pooled)
        for index, variable in enumerate(head.trainable_variables):
            variable.assign(tf.random.stateless_normal(variable.shape, [index, 0]))

        @tf.function(jit_compile=compiled, autograph=False)
        def learn(head=head):
            with tf.GradientTape() as tape:
                tape.watch(pooled)
                logits, deltas = head(pooled)
                loss = tf.reduce_sum(logits**2) + tf.reduce_sum(deltas)
            return logits, *tape.gradient(loss, [pooled, *head.trainable_variables])

        found.append([tf.convert_to_tensor(x).numpy() for x in learn()])
    (logits, features, *weights), (same_logits, smaller, *same_weights) = found
    np.testing.assert_array_equal(logits, same_logits)
    close(4 * smaller, features, 1e-6)
    for one, other in zip(weights, same_weights, strict=True):
        close(one, other, 1e-6)
