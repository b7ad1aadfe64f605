"""A composite backbone in the detector: the assistant's losses against two passes by hand, gradients, dry run."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.training.dry_run import Parts, flops, trace
from htc_tf.training.validation_losses import ValidationLosses, make_losses

SEED = tf.constant([3, 4])
COMPOSITE = (
    *("HTC.backbone=@Composite()", "Composite.assistant=@assistant/ResNet()", "Composite.lead=@lead/ResNet()"),
    *("assistant/ResNet.name='assistant'", "lead/ResNet.name='lead'", "Composite.norm='frozen_batch'"),
    "NUM_STAGES=1",
)


@pytest.fixture(scope="module")
def composite(tiny_model):
    """(Experiment, HTC); the links are not zero."""
    experiment, model = tiny_model(*COMPOSITE)
    for variable in model.backbone.variables:
        if "/link" in variable.name and "gamma" in variable.name:
            variable.assign(0.1 + tf.zeros_like(variable))
    return experiment, model


def test_the_assistant_is_trained_on_the_proposals_of_the_lead(composite, drawn_batch):
    """Its losses, with half their weight, are those of a detector whose backbone is the assistant alone."""
    experiment, model = composite
    images, sizes, truth = drawn_batch.images, drawn_batch.sizes, drawn_batch.truth
    found = model(images, sizes, truth, SEED)
    named = experiment.objective(found, truth, sizes, SEED)

    features = model.backbone(model.normalize(images, sizes), training=True)
    pyramid, theirs = (model.neck(part, training=True) for part in features)
    proposals = model.rpn(pyramid, sizes, True).proposals
    alone = model.run_cascade(pyramid, model.rpn(pyramid, sizes, True), sizes, truth, SEED, True)
    rpn = model.rpn(theirs, sizes, True)
    assert np.any(rpn.proposals.boxes != proposals.boxes)
    seed = tf.random.experimental.stateless_fold_in(SEED, -1)
    assistant = model.run_cascade(theirs, rpn._replace(proposals=proposals), sizes, truth, seed, True)
    expected = {
        **experiment.objective(alone, truth, sizes, SEED),
        **{f"assistant_{name}": x for name, x in experiment.objective(assistant, truth, sizes, seed).items()},
    }
    assert named.keys() == expected.keys() and len(named) == 2 * 6
    for name, loss in named.items():
        factor = 0.5 if name.startswith("assistant") else 1.0
        np.testing.assert_allclose(loss.value, factor * expected[name].value, rtol=1e-5, err_msg=name)
        assert not name.startswith("assistant") or loss.value != named[name.removeprefix("assistant_")].value


def test_detection_uses_the_lead_alone(composite, drawn_batch):
    _, model = composite
    images, sizes = drawn_batch.images, drawn_batch.sizes
    lead, _ = model.backbone(model.normalize(images, sizes))
    outputs = model(images, sizes)
    assert outputs.assistant is None
    np.testing.assert_array_equal(outputs.pyramid[3], model.neck(lead)[3])


def test_gradients_reach_both_parts_and_the_links(composite, drawn_batch, make_learner):
    experiment, model = composite
    _, gradients = make_learner(experiment, model)(drawn_batch)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert "backbone" not in variable.name or np.any(gradient.numpy()), variable.name


def test_validation_losses_include_the_assistants(composite, drawn_batch, eagerly):
    """Of boxes without annotations of masks and stuff they are left out, as the lead's."""
    names = make_losses(*composite)(drawn_batch).keys()
    info = SimpleNamespace(stuff=SimpleNamespace(present=False), masks=False)
    known = {name for name in names if ValidationLosses.known(SimpleNamespace(info=info), name)}
    assert len(names) == 12 and len(known) == 8
    assert names - known == {f"{part}{name}" for part in ("", "assistant_") for name in ("semantic", "stage1_mask")}


def test_the_dry_run_counts_both_passes(composite, drawn_batch):
    """Detection runs neck and heads once, training twice; the backbone is the same."""
    _, model = composite
    graphs, parts = trace(*composite, drawn_batch), Parts(model)
    detection, training = (parts.add(flops(graph)) for graph in graphs.values())
    assert training["neck"] == pytest.approx(2 * detection["neck"], rel=0.01)
    assert training["backbone"] == pytest.approx(detection["backbone"], rel=0.01)
