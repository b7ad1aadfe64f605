"""First weights: the order of their sources, and what does not fit."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config, train
from htc_tf.checkpoint import Checkpoints, restore_weights
from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.evaluation.records import evaluate_records
from htc_tf.inference.detector import restore
from htc_tf.models.htc import PIXEL_STD
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run
from htc_tf.training import first_weights
from htc_tf.training.first_weights import initialize, is_run, load_backbone, load_weights
from htc_tf.weights import mmdet_arrays
from htc_tf.weights.conversion import convert

SMALL = ["NUM_STAGES=1", "Postprocess.keep=2"]
PLAIN = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]


def make_model(value, units=3):
    model = tf.keras.Sequential([tf.keras.layers.Dense(units, name="layer")])
    model.build([None, 4])
    for variable in model.variables:
        variable.assign(tf.fill(variable.shape, value))
    return model


def make_training(run, value=0.0, averaged=False):
    """Returns a model, its averages or None, and the Checkpoints of a training."""
    model, step = make_model(value), tf.Variable(0, dtype=tf.int64)
    optimizer = tf.keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    averages = MovingAverages(model.trainable_variables, 0.9) if averaged else None
    return model, averages, Checkpoints(run, model, optimizer, step, averages=averages)


def values(variables):
    return {float(x) for variable in variables for x in np.unique(variable)}


@pytest.fixture
def averaged_run(tmp_path):
    """A run whose weights are 1 and whose averages are 2."""
    run = Run(tmp_path / "averaged")
    run.create("", [])
    _, averages, checkpoints = make_training(run, 1.0, averaged=True)
    for average in averages.averages:
        average.assign(tf.fill(average.shape, 2.0))
    checkpoints.save(5)
    return run


def test_the_order_of_the_sources(averaged_run, tmp_path):
    run = Run(tmp_path / "run")
    model, averages, checkpoints = make_training(run, 7.0, averaged=True)
    # 5. Scratch.
    assert initialize(checkpoints, model, averages) is None and values(model.variables) == {7.0}
    # 2. Another run: its averages become the first weights and the first averages.
    assert initialize(checkpoints, model, averages, averaged_run).endswith("averaged/checkpoints/ckpt-5")
    assert values(model.variables) == values(averages.averages) == {2.0}
    # 1. Its own checkpoint precedes all others.
    model, averages, checkpoints = make_training(averaged_run, averaged=True)
    assert initialize(checkpoints, model, averages, Run(tmp_path / "nowhere"), "nowhere").endswith("ckpt-5")
    assert values(model.variables) == {1.0} and values(averages.averages) == {2.0}


def test_late_averages_start_from_the_weights(tmp_path):
    run = Run(tmp_path)
    make_training(run, 3.0)[2].save(5)
    model, averages, checkpoints = make_training(run, averaged=True)
    initialize(checkpoints, model, averages)
    assert values(model.variables) == values(averages.averages) == {3.0}


def test_a_training_must_continue_its_averages(averaged_run):
    _, _, checkpoints = make_training(averaged_run)
    with pytest.raises(UserError, match=r"ckpt-5 has averages.*ema_decay"):
        checkpoints.restore_latest()
    model = make_model(0.0)
    restore_weights(averaged_run, model)
    assert values(model.variables) == {2.0}
    restore_weights(averaged_run, model, averaged=False)
    assert values(model.variables) == {1.0}


def test_other_runs_that_do_not_fit(averaged_run, tmp_path):
    model, _, checkpoints = make_training(Run(tmp_path / "run"))
    with pytest.raises(UserError, match=r"nowhere is missing: name the folder of a training run"):
        initialize(checkpoints, model, None, Run(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere is missing: name the folder of a training run"):
        initialize(checkpoints, model, None, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"--init_from .*nowhere.pth is missing"):
        initialize(checkpoints, model, None, str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"htc_r50_coco .*nearest are .*htc_r50_fpn_1x_coco"):
        initialize(checkpoints, model, None, "htc_r50_coco")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--init_from .*empty: .* no checkpoint"):
        initialize(checkpoints, model, None, Run(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"ckpt-5 is of another architecture: 0 of 2 .*layer/kernel:0: \[4, 9\] here"):
        initialize(checkpoints, make_model(0.0, units=9), None, averaged_run)


def test_a_part_of_a_run(trained, reset_model, tmp_path):
    run, _ = trained
    model = reset_model("NUM_STAGES=2", "Postprocess.keep=2")
    checkpoints = Checkpoints(Run(tmp_path / "new"), model)
    for part in ("checkpoints", "checkpoints/ckpt-3", "checkpoints/ckpt-3.index", "checkpoints/ckpt-9"):
        with pytest.raises(UserError, match=rf"{part} is a part of a run: give the run's folder, {run.folder}$"):
            initialize(checkpoints, model, None, str(run.folder / part))
    with pytest.raises(UserError, match="--init_from is empty"):
        initialize(checkpoints, model, None, "")


def test_sources_may_be_paths(tmp_path):
    assert not is_run(Path("weights/a.pth")) and is_run(Path("runs/a")) and is_run(tmp_path)
    with pytest.raises(UserError, match=r"weights/a\.pth"):
        load_weights(Path("weights/a.pth"), None, ())


def test_one_source_is_given(monkeypatch, capsys):
    flags = ["--gin_file", "x.gin", "--train_records", "x", "--workdir", "x"]
    monkeypatch.setattr("sys.argv", ["train", *flags, "--init_from", "RUN", "--backbone_weights", "resnet50"])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert "--backbone_weights: not allowed with argument --init_from" in capsys.readouterr().err


def test_a_backbone(reset_model, write, tmp_path):
    model = reset_model(*SMALL)
    arrays = {name: array for name, array in mmdet_arrays(model).items() if name.startswith("backbone.")}
    wanted = {name: array + 1 for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    named = {name.removeprefix("backbone."): array for name, array in wanted.items()}
    head = model.rpn.variables[0].numpy()
    path = tmp_path / "resnet.pth"
    write.pytorch_zip(path, {**named, "fc.weight": np.ones([3, 2], np.float32)})
    assert load_backbone(path, model) == str(path)
    found = mmdet_arrays(model)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(model.rpn.variables[0], head)
    gone, changed = sorted(named)[0], sorted(named)[-1]
    del named[gone]
    named[changed] = named[changed][..., :1].repeat(2, -1)
    write.pytorch_zip(path, {**named, "layer9.weight": np.ones([1], np.float32)})
    with pytest.raises(UserError, match="does not fit ResNet") as error:
        load_backbone(path, model)
    assert f"lacks backbone.{gone}" in str(error.value) and "not in the model: backbone.layer9" in str(error.value)
    assert f"backbone.{changed}: [" in str(error.value)


def test_a_converted_run_is_evaluated_like_any_other(reset_model, tiny_data, write, tmp_path, eagerly):
    params = [*SMALL, *PLAIN]
    model = reset_model(*params)
    write.pytorch_zip(tmp_path / "x.pth", {"state_dict": mmdet_arrays(model)})
    experiment, resolved = config.load(["tests/tiny.gin"], params)
    run = Run(tmp_path / "run")
    convert(experiment, resolved, tmp_path / "x.pth", run, annotations=tiny_data.annotations)
    experiment, _ = config.load([], [], run)
    metrics, results, _ = evaluate_records(restore(experiment, run), load_info(tiny_data.records))
    assert len(results) == 12 and 0 <= metrics["bbox/AP"] <= 1 and 0 <= metrics["segm/AP"] <= 1


def test_the_run_itself_comes_first(trained, reset_model, monkeypatch):
    """A run that continues reads and fetches nothing else."""
    run, _ = trained
    monkeypatch.setattr(first_weights, "locate", None)
    model = reset_model("NUM_STAGES=2", "Postprocess.keep=2")
    checkpoints = Checkpoints(run, model)
    assert initialize(checkpoints, model, None, "htc_r50_fpn_1x_coco", "resnet50").endswith("ckpt-3")


def test_backbone_weights_of_the_configuration(reset_model, tmp_path, monkeypatch):
    model = reset_model(*SMALL, "ResNet.frozen_stages=1")
    checkpoints, asked = Checkpoints(Run(tmp_path / "new"), model), []
    monkeypatch.setattr(first_weights, "load_backbone", lambda text, model: asked.append(text) or text)
    assert initialize(checkpoints, model, configured="resnet50") == "resnet50"
    assert initialize(checkpoints, model, backbone_weights="resnet101", configured="resnet50") == "resnet101"
    with pytest.raises(UserError, match=r"frozen parts .*Give --backbone_weights resnet50 .*from_scratch"):
        initialize(checkpoints, model, backbone_weights="none", configured="resnet50")
    # A backbone that fetches its own weights, such as KerasCVBackbone, does so unless they are to be initial values.
    monkeypatch.setattr(first_weights, "fetch_backbone", lambda model: asked.append("its own") or "its own")
    assert initialize(checkpoints, model) == "its own"
    with pytest.raises(UserError, match="frozen parts"):
        initialize(checkpoints, model, backbone_weights="none")
    assert asked == ["resnet50", "resnet101", "its own"]


@pytest.mark.parametrize(
    ("name", "scale", "wanted"),
    [("swin_tiny_patch4_window7_224", (1.0, 1.0, 1.0), PIXEL_STD), ("msra_resnet50", PIXEL_STD, (1.0, 1.0, 1.0))],
)
def test_weights_of_otherwise_scaled_pixels_are_refused(name, scale, wanted):
    message = f"HTC.pixel_std = {scale}, but {name} was trained with {wanted}: bind that, or choose weights "
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        first_weights.load_backbone(name, SimpleNamespace(pixel_std=scale))


def test_other_models_of_otherwise_scaled_pixels_are_refused(trained, reset_model, monkeypatch):
    name, model = "mask_rcnn_R_50_FPN_1x", reset_model(*SMALL)
    with pytest.raises(UserError, match=rf"^HTC.pixel_std = .*, but {name} was trained with \(1.0, 1.0, 1.0\)"):
        load_weights(name, model, [])
    monkeypatch.setattr(model, "pixel_std", (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"^HTC.pixel_std = \(1.0, 1.0, 1.0\), but the run .* was trained with \(58"):
        load_weights(trained[0], model, [])


@pytest.mark.parametrize(
    ("line", "scale"),
    [
        ("", PIXEL_STD),
        ("HTC.pixel_std = (1.0, 2, 3.5)", (1.0, 2.0, 3.5)),
        ("HTC.pixel_std = %STD", None),
        ("HTC.pixel_std = (1.0, 2, __import__('os'))", None),
    ],
)
def test_the_scale_of_a_runs_pixels(tmp_path, line, scale):
    run = Run(tmp_path)
    run.create(f"HTC.masks = True\n{line}\nHTC.xla = False\n", [])
    assert first_weights.read_pixel_std(run) == scale


def test_a_configuration_of_a_stranger_is_not_read_whole(tmp_path):
    run = Run(tmp_path)
    os.mkfifo(run.config)
    with pytest.raises(UserError, match="not a regular file"):
        first_weights.read_pixel_std(run)


def test_weights_that_cannot_be_fetched(reset_model, tmp_path):
    model = reset_model(*SMALL)
    checkpoints = Checkpoints(Run(tmp_path / "new"), model)
    with pytest.raises(UserError, match=r"resnet50-0676ba61.pth.*--backbone_weights none .*from_scratch.gin"):
        initialize(checkpoints, model, configured="resnet50")
