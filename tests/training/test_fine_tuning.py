"""Fine-tuning: which weights a model of other classes takes from a run or a file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config, train
from htc_tf.checkpoint import Checkpoints, restore_weights
from htc_tf.data.datasets import load_info
from htc_tf.errors import UserError
from htc_tf.moving_averages import MovingAverages
from htc_tf.run import Run
from htc_tf.training import first_weights
from htc_tf.training.class_columns import ClassColumns, find_columns, shared_classes
from htc_tf.training.first_weights import initialize
from htc_tf.weights import mmdet_arrays

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["NUM_STAGES=2", "Postprocess.keep=2"]
PLAIN = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]
NAMES = ["disk", "ring", "bar", "box", "star", "moon", "leaf", "drop"]  # of the tiny model's 8 classes
OTHERS = ["fish", " Ring", "DROP"]  # "ring" and "drop" are kept


def categories(names):
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def fill(variables, start=0.0):
    """Gives each variable values of its own, all distinct."""
    for variable in variables:
        size = variable.shape.num_elements()
        variable.assign(np.arange(start, start + size, dtype=np.float32).reshape(variable.shape))
        start += size


@pytest.fixture
def trained(tiny_model, tmp_path):
    """A run of a model of two stages and eight classes, and the model."""
    _, model = tiny_model(*SMALL)
    fill(model.variables)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, model).save(3)
    return run, model


def start(model, tmp_path, source, names=OTHERS, averages=None):
    checkpoints = Checkpoints(Run(tmp_path / "new"), model, averages=averages)
    return initialize(checkpoints, model, averages, source, class_names=names)


def equal_parts(model, other, name):
    pairs = zip(getattr(model, name).weights, getattr(other, name).weights, strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def test_columns_of_classes():
    assert ClassColumns(1, 1).of([2, 0], total=3) == [2, 0, 3]  # the background is last
    assert ClassColumns(4, 0).of([1], total=3) == [4, 5, 6, 7] and ClassColumns(4, 0).count(3) == 12
    assert ClassColumns(1, 0).of([], total=3) == []
    assert shared_classes(["Cat", "dog", "cat "], ["dog", "cow", " CAT"]) == [(1, 0), (0, 2)]


def test_other_classes(trained, tiny_model, tmp_path, capsys):
    run, old = trained
    _, model = tiny_model(*SMALL, "NUM_CLASSES=3")
    before = {v.ref(): v.numpy() for v in model.variables}
    assert start(model, tmp_path, str(run.folder)).endswith("ckpt-3")
    for name in ("backbone", "neck", "rpn", "semantic_head"):
        assert equal_parts(model, old, name)
    for stage, theirs in zip(model.stages, old.stages, strict=True):
        head, their_head = stage.box_head, theirs.box_head
        for mine, other in zip(head.hidden + head.norms, their_head.hidden + their_head.norms, strict=True):
            np.testing.assert_array_equal(mine.weights[0], other.weights[0])
        np.testing.assert_array_equal(head.regressor.kernel, their_head.regressor.kernel)  # one box for all classes
        kernel, bias = head.classifier.weights
        np.testing.assert_array_equal(kernel[:, 0], before[kernel.ref()][:, 0])  # fish
        np.testing.assert_array_equal(kernel.numpy()[:, 1:], their_head.classifier.kernel.numpy()[:, [1, 7, 8]])
        np.testing.assert_array_equal(bias.numpy()[1:], their_head.classifier.bias.numpy()[[1, 7, 8]])
        kernel, their_kernel = (h.mask_head.predict.convolution.kernel.numpy() for h in (stage, theirs))
        np.testing.assert_array_equal(kernel[..., 1:], their_kernel[..., [1, 7]])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == f"weights from {run.checkpoints / 'ckpt-3'}:" and len(table) == 10
    rows = [" ".join(row.split()) for row in table]
    assert rows[1:5] == [f"{part} taken" for part in ("backbone", "neck", "rpn", "semantic head")]
    assert rows[8] == "stage 2 mask head taken; 2 of 3 classes kept" and rows[9] == "classes 2 of 3 kept: Ring, DROP"


def test_equal_classes_take_everything(trained, tiny_model, tmp_path, capsys):
    run, old = trained
    _, model = tiny_model(*SMALL)
    start(model, tmp_path, run, [f" {name.upper()}" for name in NAMES])
    for mine, other in zip(model.variables, old.variables, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert not capsys.readouterr().out
    # In another order, the columns follow the names.
    start(model, tmp_path, run, NAMES[::-1])
    head, theirs = (m.stages[1].box_head.classifier.kernel.numpy() for m in (model, old))
    np.testing.assert_array_equal(head, theirs[:, [7, 6, 5, 4, 3, 2, 1, 0, 8]])


def test_no_common_classes(trained, tiny_model, tmp_path, capsys):
    run, old = trained
    _, model = tiny_model(*SMALL, "NUM_CLASSES=3")
    start(model, tmp_path, run, ["fish", "bird", "tree"])
    head, theirs = (m.stages[0].box_head.classifier for m in (model, old))
    np.testing.assert_array_equal(head.kernel[:, 3], theirs.kernel[:, 8])  # the background
    assert np.abs(head.kernel[:, :3]).max() < 0.1 and np.all(head.bias.numpy()[:3] == 0)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["classes", "0", "of", "3", "kept"]


def test_deltas_per_class(tiny_model, tmp_path):
    params = [*SMALL, "BoxHead.class_agnostic=False"]
    _, old = tiny_model(*params)
    fill(old.variables)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, old).save(3)
    _, model = tiny_model(*params, "NUM_CLASSES=3")
    assert sorted(find_columns(model).values()) == sorted(2 * 2 * [*map(ClassColumns, (1, 1, 4), (0, 1, 0))])
    start(model, tmp_path, run)
    kernel, theirs = (m.stages[0].box_head.regressor.kernel.numpy() for m in (model, old))
    np.testing.assert_array_equal(kernel[:, 4:], theirs[:, [4, 5, 6, 7, 28, 29, 30, 31]])
    # One box for all classes cannot be taken from boxes per class.
    _, model = tiny_model(*SMALL, "NUM_CLASSES=3")
    start(model, tmp_path, run)
    assert np.abs(model.stages[0].box_head.regressor.kernel).max() < 0.1


def test_averages(tiny_model, tmp_path):
    """Averages are found by the variables' names, of which the stages' heads share some; a frozen stage has none."""
    _, old = tiny_model(*SMALL, "ResNet.frozen_stages=1")
    fill(old.variables)
    averages = MovingAverages(old.trainable_variables, 0.9)
    fill(averages.averages, start=2**20)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, old, averages=averages).save(3)
    restore_weights(run, old)
    assert min(v.numpy().min() for v in old.trainable_variables) == 2**20
    _, model = tiny_model(*SMALL)  # its stem and first stage are trained
    mine = MovingAverages(model.trainable_variables, 0.9)
    start(model, tmp_path, run, NAMES, mine)
    for variable, other in zip(sorted_weights(model), sorted_weights(old), strict=True):
        np.testing.assert_array_equal(variable, other, err_msg=variable.name)
    for average, variable in zip(mine.averages, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(average, variable)


def sorted_weights(model):
    """The variables in an order that does not depend on which are trained."""
    return [v for _, v in sorted(enumerate(model.variables), key=lambda item: (item[1].name, item[0]))]


def test_former_attributes(trained, tiny_model, tmp_path, monkeypatch):
    """Runs of earlier versions have other names of attributes in their graphs."""
    _, old = trained
    mask_heads = [stage.mask_head for stage in old.stages]
    for head in mask_heads:
        head._track_trackable(head.flow_conv, "receive")
        head._delete_tracking("flow_conv")
    run = Run(tmp_path / "former")
    run.create("", categories(NAMES))
    Checkpoints(run, old).save(3)
    stored = {name for name, _ in tf.train.list_variables(str(run.checkpoints / "ckpt-3"))}
    assert any("/receive/" in name for name in stored) and not any("/flow_conv/" in name for name in stored)
    _, model = tiny_model(*SMALL)
    start(model, tmp_path, run, NAMES)
    np.testing.assert_array_equal(
        model.stages[1].mask_head.flow_conv.convolution.kernel, mask_heads[1].flow_conv.convolution.kernel
    )


def test_two_devices(trained, tiny_model, tiny_data, tmp_path):
    """A process with two logical devices takes the weights; its own checkpoint, of mirrored variables, is read too."""
    run, old = trained
    Run(run.folder).create("", categories(load_info(tiny_data.records).class_names))
    flags = ["--gin_file", "tests/tiny.gin", "--devices", "CPU:0", "CPU:1", "--init_from", run.folder]
    for param in (*SMALL, "STEPS=0", "Experiment.ema_decay=0.9"):
        flags += ["--gin_param", param]
    flags += ["--train_records", tiny_data.records, "--workdir", tmp_path / "mirrored"]
    result = subprocess.run(
        [sys.executable, "-m", "htc_tf.train", *map(str, flags)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"starting from {run.checkpoints / 'ckpt-3'}; nothing is frozen" in result.stdout
    _, model = tiny_model(*SMALL)
    start(model, tmp_path, Run(tmp_path / "mirrored"), load_info(tiny_data.records).class_names)
    for mine, theirs in zip(model.variables, old.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.name)


def test_another_architecture(trained, tiny_model, tmp_path):
    run, _ = trained
    _, model = tiny_model(*SMALL, "ResNet.depth=18")
    with pytest.raises(
        UserError, match=r"ckpt-3 is of another architecture: 60 of 100 variables .*\(it lacks htc/"
    ) as refused:
        start(model, tmp_path, run)
    assert "--gin_file" in str(refused.value) and "\n" not in str(refused.value)
    _, model = tiny_model(*SMALL, "ResNet.width=16")
    with pytest.raises(UserError, match=r": 0 of 60 .*stem/conv/kernel:0: \[7, 7, 3, 16\] here, \[7, 7, 3, 8\]"):
        start(model, tmp_path, run)


def test_other_heads(trained, tiny_model, tmp_path, capsys):
    """Parts that the run lacks, or has in other shapes, keep their initial values and are named."""
    run, _ = trained
    params = ["NUM_STAGES=3", "Postprocess.keep=2", "NUM_LABELS=9", "MaskHead.num_convs=2"]
    _, model = tiny_model(*params)
    start(model, tmp_path, run, NAMES)
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert "semantic head taken except logits" in rows and "stage 2 mask head taken except conv2" in rows
    assert "stage 3 box head new" in rows and "stage 3 mask head new" in rows and len(rows) == 12
    # Where a kernel does not fit, the bias beside it is not taken either.
    _, model = tiny_model(*SMALL, "BoxHead.channels=8")
    start(model, tmp_path, run, NAMES)
    assert "stage 2 box head new" in " ".join(capsys.readouterr().out.split())
    assert np.all(model.stages[1].box_head.regressor.bias == 0)


def test_frozen_parts_need_trained_weights(trained, tiny_model, tmp_path):
    run, _ = trained
    _, model = tiny_model(*SMALL, "ResNet.norm='frozen_batch'", "ResNet.frozen_stages=1")
    start(model, tmp_path, run)
    _, model = tiny_model(*SMALL, "FPN.norm='frozen_batch'")
    with pytest.raises(UserError, match=r"statistics of \d+ batch norms in the neck \(FPN.norm\)"):
        start(model, tmp_path, run)


@pytest.fixture
def detector_file(tiny_model, tmp_path, write):
    """A file of mmdetection with COCO's 80 classes, and its arrays."""
    _, model = tiny_model(*SMALL, *PLAIN, "NUM_CLASSES=80")
    fill(model.variables)
    arrays = mmdet_arrays(model)
    write.pytorch_zip(tmp_path / "detector.pth", {"state_dict": arrays})
    return tmp_path / "detector.pth", model


def test_a_file(detector_file, tiny_model, tmp_path, monkeypatch, capsys):
    path, old = detector_file
    _, model = tiny_model(*SMALL, *PLAIN, "NUM_CLASSES=3")
    names = ["zebra", "my part", "person"]  # COCO's classes 22 and 0
    assert start(model, tmp_path, str(path), names) == str(path)
    for part in ("backbone", "neck", "rpn", "semantic_head"):
        assert equal_parts(model, old, part)
    for stage, theirs in zip(model.stages, old.stages, strict=True):
        kernel, their_kernel = (s.box_head.classifier.kernel.numpy() for s in (stage, theirs))
        np.testing.assert_array_equal(kernel[:, [0, 2, 3]], their_kernel[:, [22, 0, 80]])
        kernel, their_kernel = (s.mask_head.predict.convolution.kernel.numpy() for s in (stage, theirs))
        np.testing.assert_array_equal(kernel[..., [0, 2]], their_kernel[..., [22, 0]])
    assert "classes 2 of 3 kept: zebra, person" in " ".join(capsys.readouterr().out.split())
    # By name: the file is where `locate` says.
    located = []
    monkeypatch.setattr(first_weights, "locate", lambda *arguments: located.append(arguments) or (path, "mmdet"))
    _, model = tiny_model(*SMALL, *PLAIN, "NUM_CLASSES=3")
    start(model, tmp_path, "htc_r50_fpn_1x_coco", names)
    assert located == [("htc_r50_fpn_1x_coco", "--init_from")] and equal_parts(model, old, "backbone")


def test_a_file_of_another_architecture(detector_file, tiny_model, tmp_path):
    _, model = tiny_model(*SMALL, *PLAIN, "ResNet.depth=18")
    with pytest.raises(UserError, match=r"detector.pth is of another architecture: .*it lacks backbone.layer1.1.conv1"):
        start(model, tmp_path, str(detector_file[0]))


def test_the_run_itself_comes_first(trained, tiny_model, tmp_path, monkeypatch):
    """A run that continues reads and fetches nothing else."""
    run, _ = trained
    monkeypatch.setattr(first_weights, "locate", None)
    _, model = tiny_model(*SMALL)
    checkpoints = Checkpoints(run, model)
    assert initialize(checkpoints, model, None, "htc_r50_fpn_1x_coco", "resnet50").endswith("ckpt-3")


def test_backbone_weights_of_the_configuration(tiny_model, tmp_path, monkeypatch):
    _, model = tiny_model(*SMALL, "ResNet.frozen_stages=1")
    checkpoints, asked = Checkpoints(Run(tmp_path / "new"), model), []
    monkeypatch.setattr(first_weights, "load_backbone", lambda text, model: asked.append(text) or text)
    assert initialize(checkpoints, model, configured="resnet50") == "resnet50"
    assert initialize(checkpoints, model, backbone_weights="resnet101", configured="resnet50") == "resnet101"
    with pytest.raises(UserError, match=r"frozen parts .*Give --backbone_weights resnet50 .*from_scratch"):
        initialize(checkpoints, model, backbone_weights="none", configured="resnet50")
    assert asked == ["resnet50", "resnet101"]


def test_weights_that_cannot_be_fetched(tiny_model, tmp_path):
    _, model = tiny_model(*SMALL)
    checkpoints = Checkpoints(Run(tmp_path / "new"), model)
    with pytest.raises(UserError, match=r"resnet50-0676ba61.pth.*--backbone_weights none .*from_scratch.gin"):
        initialize(checkpoints, model, configured="resnet50")


@pytest.mark.parametrize("name", ["htc_r50_fpn_1x_coco", "htc_r50_fpn_20e_coco", "cascade_mask_rcnn_r50_fpn_1x_coco"])
def test_the_overlay_follows_any_run_file(name, tiny_data):
    files = [f"gin/{name}.gin", "gin/options/fine_tune.gin"]
    experiment, _ = config.load(files, [], train_records=tiny_data.records)
    assert (experiment.num_classes, experiment.batch_size, experiment.steps) == (8, 4, 24 * 2)
    assert experiment.optimizer.schedule.peak == pytest.approx(0.0025) and experiment.checkpoint_every == 2
    assert experiment.optimizer.schedule.warmup_steps == 100


def test_the_overlay_and_a_cosine_schedule(tiny_data):
    files = ["gin/htc_shapes.gin", "gin/options/fine_tune.gin"]
    experiment, _ = config.load(files, [], train_records=tiny_data.records)
    schedule = experiment.optimizer.schedule
    assert (experiment.steps, schedule.peak, schedule.warmup_steps) == (48, 8e-3 / 4 / 2, 100)


def test_the_overlay_and_another_optimizer(tiny_data):
    for options in (["fine_tune", "swin_t"], ["swin_t", "fine_tune"]):
        files = ["gin/mask_rcnn_r50_fpn_1x_coco.gin", *(f"gin/options/{name}.gin" for name in options)]
        experiment, _ = config.load(files, [], train_records=tiny_data.records)
        assert experiment.optimizer.schedule.peak == pytest.approx(1e-4 / 2 / 4)


def test_the_command(detector_file, tiny_data, tmp_path, monkeypatch, capsys):
    """The command of fine_tune.gin, on a model as small as that of the file: the name leads to the file."""
    path, _ = detector_file
    (tmp_path / "small.gin").write_text("include 'tests/tiny.gin'\nNUM_STAGES = 2\n" + "\n".join(PLAIN))
    monkeypatch.setattr(first_weights, "locate", lambda text, flag: (path, "mmdet"))
    flags = ["--gin_file", str(tmp_path / "small.gin"), "--gin_file", "gin/options/fine_tune.gin"]
    flags += ["--gin_param", "STEPS=0", "--init_from", "htc_r50_fpn_1x_coco", "--workdir", str(tmp_path / "run")]
    flags += ["--train_records", str(tiny_data.records)]
    monkeypatch.setattr("sys.argv", ["train", *flags])
    train.main()
    printed = capsys.readouterr().out
    assert "weights from" in printed and "taken; 0 of 8 classes kept" in printed
    assert f"starting from {path}" in printed and "finished 0 steps" in printed
    assert Run(tmp_path / "run").config.exists()


def test_a_source_that_does_not_fit_leaves_no_folder(trained, tiny_data, tmp_path):
    from htc_tf.training.trainer import train as train_model

    experiment, resolved = config.load(["tests/tiny.gin"], [*SMALL, "ResNet.width=16"])
    with pytest.raises(UserError, match=r"--init_from .* of another architecture"):
        train_model(experiment, resolved, tiny_data.records, None, Run(tmp_path / "run"), init_from=trained[0])
    assert not (tmp_path / "run").exists()
