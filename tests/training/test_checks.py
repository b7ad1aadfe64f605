"""Checks before step 1: classes, annotations, evaluations and determinism."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tensorflow as tf

from htc_tf.data.datasets import Stuff, load_info
from htc_tf.errors import UserError
from htc_tf.models.backbones.convnext import ConvNeXt
from htc_tf.models.backbones.keras_cv import KerasCVBackbone
from htc_tf.models.backbones.resnet import ResNet
from htc_tf.run import Run
from htc_tf.training.checks import (
    check_determinism,
    check_names,
    check_profile,
    check_run,
    check_supervision,
    load_records,
)


def test_classes_must_be_the_same(tiny_data, tiny_experiment, tmp_path):
    info, run = load_info(tiny_data.records), Run(tmp_path)
    names = [*info.class_names]
    check_names(names, "x", info)
    with pytest.raises(UserError, match=rf"class 2 is 'dog' in x, but '{names[1]}' in"):
        check_names([names[0], "dog"], "x", info)
    check_run(tiny_experiment(), run, info)
    run.create("", [{"id": c.id, "name": c.name} for c in info.categories][::-1])
    with pytest.raises(UserError, match=rf"class 1 is '{names[-1]}' in .*classes\.json"):
        check_run(tiny_experiment(), run, info)
    run.create("", [{"id": 1, "name": "dog"}])
    with pytest.raises(UserError, match="1 classes, but NUM_CLASSES = 8"):
        check_run(tiny_experiment(), run, info)


@pytest.mark.parametrize(
    ("xla", "deterministic", "trained"),
    [(True, True, True), (True, False, True), (False, True, True), (True, True, False)],
)
def test_a_trained_max_pooling_is_not_deterministic_in_xla(xla, deterministic, trained):
    experiment = SimpleNamespace(xla=xla, deterministic=deterministic)
    model = SimpleNamespace(submodules=[tf.Module(), SimpleNamespace(trains_max_pooling=trained)])
    refused = xla and deterministic and trained
    with pytest.raises(UserError, match=r"XLA or DETERMINISTIC.*frozen_stages") if refused else nullcontext():
        check_determinism(experiment, model)


@pytest.mark.parametrize("frozen_stages", [-1, 0])
def test_a_stem_that_is_trained_trains_a_max_pooling(frozen_stages):
    """Of a ResNet; a ConvNeXt, whose first layer is a stem too, has no max pooling."""
    backbone = ResNet(depth=18, width=4, frozen_stages=frozen_stages)
    backbone(tf.zeros([1, 32, 32, 3]))
    assert backbone.trains_max_pooling == (frozen_stages < 0)
    assert not hasattr(ConvNeXt, "trains_max_pooling")


@pytest.mark.parametrize("frozen_stages", [0, 1])
def test_layers_before_a_max_pooling_of_keras_cv(frozen_stages):
    inputs = tf.keras.Input([8, 8, 3])
    first = tf.keras.layers.Conv2D(2, 1, trainable=not frozen_stages)(inputs)
    outputs = tf.keras.layers.Conv2D(2, 1)(tf.keras.layers.MaxPooling2D()(first))
    backbone = SimpleNamespace(extractor=tf.keras.Model(inputs, outputs))
    assert KerasCVBackbone.trains_max_pooling.fget(backbone) == (not frozen_stages)


def test_records_without_annotations_are_refused(tiny_data, tiny_experiment, capsys):
    info, model = load_info(tiny_data.records), tiny_experiment("NUM_STAGES=1").build_model()
    objects = info.objects - info.crowd
    check_supervision(model, info)
    for changes, words in (
        ({"stuff": Stuff(False, 0)}, r"no stuff maps.*gin/options/no_semantic\.gin"),
        ({"masks": False}, r"no masks.*gin/options/boxes_only\.gin"),
        ({"counters": {"masks_empty": objects}}, r"only empty masks.*gin/options/boxes_only\.gin"),
        ({"crowd": info.objects}, "no object to train on: all .* crowd"),
        ({"objects": 0, "crowd": 0}, "no object to train on: no image has an annotation"),
    ):
        with pytest.raises(UserError, match=words):
            check_supervision(model, dataclasses.replace(info, **changes))
    assert not capsys.readouterr().err
    check_supervision(model, dataclasses.replace(info, counters={"masks_empty": objects - 1}))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {objects - 1} of {objects} objects")
    # A model without these branches needs none of these annotations.
    model = tiny_experiment("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False").build_model()
    check_supervision(model, dataclasses.replace(info, masks=False, stuff=Stuff(False, 0)))


@pytest.mark.parametrize(
    "params, val, words",
    [
        (["EVALUATE_EVERY=2"], False, r"EVALUATE_EVERY = 2.*--val_records"),
        (["EVALUATE_EVERY=2", "Experiment.keep_best='segm/AP'"], False, "--val_records"),
        (
            ["EVALUATE_EVERY=2", "Experiment.keep_best='segm/mAP'"],
            True,
            r"'segm/mAP' is not a metric.*segm/AP50",
        ),
        (
            ["EVALUATE_EVERY=2", "MASKS=False", "Experiment.keep_best='segm/AP'"],
            True,
            "'segm/AP' is not a metric",
        ),
        (["EVALUATE_EVERY=2", "Experiment.keep_best=3"], True, "keep_best = 3 is not a metric"),
        (["EVALUATE_EVERY=2", "Experiment.keep_best='segm/ap50'"], True, "did you mean 'segm/AP50'"),
        (["Experiment.keep_best='segm/AP'"], True, "keep_best = 'segm/AP' needs evaluations: set EVALUATE_EVERY"),
        (["Experiment.keep_best='segm/AP'"], False, "keep_best = 'segm/AP' needs evaluations: give --val_records"),
        (["EVALUATE_EVERY=2", "Experiment.patience=3"], True, "patience = 3 .* set Experiment.keep_best"),
    ],
)
def test_impossible_evaluations_are_refused(tiny_data, tiny_experiment, params, val, words):
    experiment = tiny_experiment("NUM_STAGES=1", *params)
    with pytest.raises(UserError, match=words):
        load_records(experiment, tiny_data.records, tiny_data.records if val else None)


def test_keep_best_needs_objects(tiny_data, tiny_experiment, tmp_path):
    crowd = shutil.copytree(tiny_data.records, tmp_path / "crowd")
    content = json.loads((crowd / "dataset_info.json").read_text())
    (crowd / "dataset_info.json").write_text(json.dumps({**content, "crowd": content["objects"]}))
    load_records(tiny_experiment("EVALUATE_EVERY=2"), tiny_data.records, crowd)
    with pytest.raises(UserError, match=r"keep_best = 'bbox/AP', but .*crowd holds no object"):
        load_records(tiny_experiment("EVALUATE_EVERY=2", "Experiment.keep_best='bbox/AP'"), tiny_data.records, crowd)


@pytest.mark.parametrize(
    "param, words",
    [
        ("EPOCHS=2", "EPOCHS = 2 needs the size of the records"),
        ("Experiment.epochs=2", "EPOCHS = 2 needs the size of the records: set the macro"),
        ("STEPS=None", "nothing sets the length of the training: add --gin_param EPOCHS=12"),
        ("CHECKPOINT_EVERY='epoch'", "CHECKPOINT_EVERY = 'epoch' needs the size of the records"),
        ("EVALUATE_EVERY='epoch'", "EVALUATE_EVERY = 'epoch' needs the size of the records"),
    ],
)
def test_a_training_of_unknown_length_is_refused(tiny_data, tiny_experiment, param, words):
    with pytest.raises(UserError, match=words):
        load_records(tiny_experiment(param), tiny_data.records, None)


def test_other_classes_in_number_name_two_remedies(tiny_data, tiny_experiment):
    with pytest.raises(UserError, match=r"add --gin_param NUM_CLASSES=8, or --gin_file gin/options/fine_tune\.gin"):
        load_records(tiny_experiment("NUM_CLASSES=5"), tiny_data.records, None)


@pytest.mark.parametrize(
    "profile, step, said",
    [
        (None, 0, False),
        ((2, 3), 0, False),
        ((2, 3), 2, False),
        ((2, 3), 3, True),
        ((4, 9), 0, False),
        ((5, 9), 0, True),
    ],
)
def test_a_profile_without_steps_is_noted(capsys, profile, step, said):
    check_profile(profile, step, steps=4)
    note = "note: --profile {}:{} profiles nothing: the training is at step {} of 4\n"
    assert capsys.readouterr().err == (note.format(*profile, step) if said else "")
