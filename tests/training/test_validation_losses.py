"""Losses on the validation records: golden, against one batch of all images, and nothing of the model moves."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.cluster import Cluster
from htc_tf.data.datasets import load_info
from htc_tf.evaluation.eval_workers import Workers
from htc_tf.evaluation.records import Interrupted
from htc_tf.models.norms import trained_batch_norms
from htc_tf.ops.matching import subsample_evenly
from htc_tf.training import validation_losses
from htc_tf.training.validation_losses import ValidationLosses, normalize
from tests.eagerly import run_eagerly

NORMS = ["SemanticHead.norm='batch'", "FPN.norm='sync_batch'"]


@pytest.fixture(scope="module")
def parts(tiny_data, tiny_model):
    """An Experiment, a model whose batch norms have seen a batch, and the DatasetInfo; sampling has no random order."""
    experiment, model = tiny_model("NUM_STAGES=2", *NORMS)
    experiment.objective.anchor_sampler.choose = model.roi_sampler.choose = lambda seed: subsample_evenly
    batch = next(iter(experiment.eval_input.dataset(tiny_data.records, seed=0)))
    before = [v.numpy() for v in moving(model)]
    with run_eagerly():
        model(batch.images, batch.sizes, batch.truth, tf.constant([0, 0]))
    assert all((v.numpy() != old).any() for v, old in zip(moving(model), before, strict=True))
    return experiment, model, load_info(tiny_data.records)


@pytest.fixture
def two_images(eagerly, monkeypatch):
    """Only the first two images count, and nothing is traced."""
    monkeypatch.setattr(validation_losses, "MAX_IMAGES", 2)


def moving(model):
    return [v for norm in trained_batch_norms(model) for v in (norm.moving_mean, norm.moving_variance)]


def make(experiment, model, info, workers=None):
    return ValidationLosses(experiment, model, info, tf.distribute.get_strategy(), workers or Workers())


def test_they_equal_those_of_one_batch_of_all_images(parts, eagerly, monkeypatch):
    experiment, model, info = parts
    values = [v.numpy() for v in model.variables]
    found = make(*parts).compute()
    for variable, value in zip(model.variables, values, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.name)
    # A second way: all images at once, in training, by batch norms that Keras does not train.
    monkeypatch.setattr(experiment.eval_input, "batch_size", info.records)
    (batch,) = experiment.eval_input.dataset(info.folder, seed=0)
    for norm in trained_batch_norms(model):
        monkeypatch.setattr(norm, "trainable", False)
    seed = tf.constant([0, 0])
    named = experiment.objective(model(batch.images, batch.sizes, batch.truth, seed), batch.truth, batch.sizes, seed)
    wanted = {name: float(loss.value) for name, loss in named.items()}
    assert {"semantic", "stage2_mask"} < wanted.keys()
    assert found == pytest.approx({**wanted, "total": sum(wanted.values())}, rel=1e-4)
    # Only the first images count.
    monkeypatch.setattr(validation_losses, "MAX_IMAGES", 2)
    first = tf.nest.map_structure(lambda x: x[:2], batch)
    outputs = model(first.images, first.sizes, first.truth, seed)
    named = experiment.objective(outputs, first.truth, first.sizes, seed)
    found = make(*parts).compute()
    assert found["rpn_class"] == pytest.approx(float(named["rpn_class"].value), rel=1e-4)


@pytest.mark.usefixtures("two_images")
def test_losses_without_annotations_are_left_out(parts):
    experiment, model, info = parts
    bare = dataclasses.replace(info, masks=False, stuff=dataclasses.replace(info.stuff, present=False))
    everything, some = make(*parts).compute(), make(experiment, model, bare).compute()
    assert everything.keys() - some.keys() == {"stage1_mask", "stage2_mask", "semantic"}
    assert some["total"] == pytest.approx(sum(value for name, value in some.items() if name != "total"))


@pytest.mark.usefixtures("two_images")
def test_labels_that_the_network_lacks_are_ignored(parts, monkeypatch):
    _, model, _ = parts
    everything = make(*parts).compute()["semantic"]
    monkeypatch.setattr(model.semantic_head, "num_labels", 6)
    few = make(*parts).compute()["semantic"]  # the other labels count in the mean, without a loss
    assert 0 < few < everything


@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (1, 2), (2, 2), (4, 3)])
def test_replicas_and_workers_share_the_images(tiny_data, tiny_experiment, workers, replicas):
    """Every image is read once; the replicas' images have one padded shape; all workers agree equally often."""
    experiment, info = tiny_experiment("IMAGE_MIN_SIDE=64", "IMAGE_MAX_SIDE=96"), load_info(tiny_data.records)
    ids, shapes, questions = [], set(), []
    for index in range(workers):
        asked = []
        worker = Workers(Cluster(index, workers, index == 0), agree=lambda stop, asked=asked: asked.append(stop))
        strategy = SimpleNamespace(num_replicas_in_sync=replicas)
        for batches in ValidationLosses(experiment, None, info, strategy, worker).read():
            (shape,) = {tuple(batch.images.shape) for batch in batches}
            assert len(batches) <= replicas and shape[0] == 1
            ids += [int(batch.image_ids[0]) for batch in batches]
            shapes.add(shape)
        questions.append(len(asked))
    assert sorted(ids) == [1, 2, 3, 4, 5, 6] and len(shapes) > 1 and len(set(questions)) == 1


@pytest.mark.usefixtures("two_images")
def test_a_stop_interrupts(parts):
    with pytest.raises(Interrupted):
        make(*parts, Workers(stop=True)).compute()


def test_the_sums_are_exact_and_independent_of_their_order():
    rows = [(1e16, 1.0, 0.5), (1.0, 0.0, 0.5), (-1e16, 2.0, 0.5), (2.0, 1.0, 0.5)]
    assert normalize(rows) == normalize(rows[::-1]) == 0.5 * 3 / 4
    assert normalize([(0.0, 0.0, 1.0)]) == 0.0
