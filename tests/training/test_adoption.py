"""Adoption: what a model takes from runs and files of other classes, heads and architectures."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.run import Run
from htc_tf.training import first_weights
from htc_tf.training.class_columns import ClassColumns, find_columns
from htc_tf.weights import mmdet_arrays
from tests.training.adopting import NAMES, PLAIN, SMALL, categories, equal_parts, fill, start


def test_other_classes(trained, reset_model, tmp_path, capsys):
    run, old = trained
    model = reset_model(*SMALL, "NUM_CLASSES=3")
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


def test_equal_classes_take_everything(trained, reset_model, tmp_path, capsys):
    run, old = trained
    model = reset_model(*SMALL)
    start(model, tmp_path, run, [f" {name.upper()}" for name in NAMES])
    for mine, other in zip(model.variables, old.variables, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert not capsys.readouterr().out
    # In another order, the columns follow the names.
    start(model, tmp_path, run, NAMES[::-1])
    head, theirs = (m.stages[1].box_head.classifier.kernel.numpy() for m in (model, old))
    np.testing.assert_array_equal(head, theirs[:, [7, 6, 5, 4, 3, 2, 1, 0, 8]])


def test_no_common_classes(trained, reset_model, tmp_path, capsys):
    run, old = trained
    model = reset_model(*SMALL, "NUM_CLASSES=3")
    start(model, tmp_path, run, ["fish", "bird", "tree"])
    head, theirs = (m.stages[0].box_head.classifier for m in (model, old))
    np.testing.assert_array_equal(head.kernel[:, 3], theirs.kernel[:, 8])  # the background
    assert np.abs(head.kernel[:, :3]).max() < 0.1 and np.all(head.bias.numpy()[:3] == 0)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["classes", "0", "of", "3", "kept"]


def test_classes_are_kept_only_if_their_columns_are(trained, reset_model, tmp_path, capsys):
    """The same names, but no layer of classes fits, since classes.json was changed."""
    run, _ = trained
    run.create("", categories(NAMES[:-1]))
    model = reset_model(*SMALL)
    start(model, tmp_path, run, NAMES)
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == ["stage 2 mask head taken; classes new", "classes 0 of 8 kept"]


def test_deltas_per_class(reset_model, tmp_path):
    params = [*SMALL, "BoxHead.class_agnostic=False"]
    old = reset_model(*params)
    fill(old.variables)
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, old).save(3)
    model = reset_model(*params, "NUM_CLASSES=3")
    assert sorted(find_columns(model).values()) == sorted(2 * 2 * [*map(ClassColumns, (1, 1, 4), (0, 1, 0))])
    start(model, tmp_path, run)
    kernel, theirs = (m.stages[0].box_head.regressor.kernel.numpy() for m in (model, old))
    np.testing.assert_array_equal(kernel[:, 4:], theirs[:, [4, 5, 6, 7, 28, 29, 30, 31]])
    # One box for all classes cannot be taken from boxes per class.
    model = reset_model(*SMALL, "NUM_CLASSES=3")
    start(model, tmp_path, run)
    assert np.abs(model.stages[0].box_head.regressor.kernel).max() < 0.1


def test_another_architecture(trained, reset_model, tmp_path):
    run, _ = trained
    model = reset_model(*SMALL, "ResNet.depth=18")
    with pytest.raises(
        UserError, match=r"ckpt-3 is of another architecture: 60 of 100 variables .*\(it lacks htc/"
    ) as refused:
        start(model, tmp_path, run)
    assert str(refused.value).endswith(f"give its configuration, --gin_file {run.config}")
    model = reset_model(*SMALL, "ResNet.width=16")
    with pytest.raises(UserError, match=r": 0 of 60 .*stem/conv/kernel:0: \[7, 7, 3, 16\] here, \[7, 7, 3, 8\]"):
        start(model, tmp_path, run)


def test_a_deeper_backbone(reset_model, tmp_path, write):
    """All variables of the model are there, but the source's backbone has more."""
    old = reset_model(*SMALL, *PLAIN, "ResNet.depth=18")
    run = Run(tmp_path / "trained")
    run.create("", categories(NAMES))
    Checkpoints(run, old).save(3)
    write.pytorch_zip(tmp_path / "detector.pth", {"state_dict": mmdet_arrays(old)})
    model = reset_model(*SMALL, *PLAIN)
    with pytest.raises(UserError, match=r": 60 of 60 variables .*it also has backbone/stages/0/1/body/0/convolution"):
        start(model, tmp_path, run)
    with pytest.raises(UserError, match=r": 60 of 60 variables .*it also has backbone.layer1.1.*give the --gin_file"):
        start(model, tmp_path, str(tmp_path / "detector.pth"))


def test_a_classifier(tiny_model, reset_model, tmp_path, write, capsys):
    """A backbone alone; the other parts are new."""
    _, old = tiny_model(*SMALL)
    arrays = {n.removeprefix("backbone."): a for n, a in mmdet_arrays(old).items() if n.startswith("backbone.")}
    write.pytorch_zip(tmp_path / "resnet.pth", {**arrays, "fc.weight": np.ones([3, 2], np.float32)})
    model = reset_model(*SMALL)
    model.backbone.weights[0].assign_add(tf.ones_like(model.backbone.weights[0]))
    start(model, tmp_path, str(tmp_path / "resnet.pth"))
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert rows[1:4] == ["backbone taken", "neck new", "rpn new"] and equal_parts(model, old, "backbone")
    assert rows[-1].startswith("classes 0 of 3 kept, since")


def test_other_heads(trained, reset_model, tmp_path, capsys):
    """Parts that the run lacks, or has in other shapes, keep their initial values and are named."""
    run, _ = trained
    params = ["NUM_STAGES=3", "Postprocess.keep=2", "NUM_LABELS=9", "MaskHead.num_convs=2"]
    model = reset_model(*params)
    start(model, tmp_path, run, NAMES)
    rows = [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]
    assert "semantic head taken except logits" in rows and "stage 2 mask head taken except conv2" in rows
    assert "stage 3 box head new" in rows and "stage 3 mask head new" in rows and len(rows) == 12
    # Where a kernel does not fit, the bias beside it is not taken either.
    model = reset_model(*SMALL, "BoxHead.channels=8")
    start(model, tmp_path, run, NAMES)
    assert "stage 2 box head new" in " ".join(capsys.readouterr().out.split())
    assert np.all(model.stages[1].box_head.regressor.bias == 0)


def test_frozen_parts_need_trained_weights(trained, reset_model, tmp_path):
    run, _ = trained
    model = reset_model(*SMALL, "ResNet.norm='frozen_batch'", "ResNet.frozen_stages=1")
    start(model, tmp_path, run)
    model = reset_model(*SMALL, "FPN.norm='frozen_batch'")
    with pytest.raises(UserError, match=r"statistics of \d+ batch norms in the neck \(FPN.norm\)"):
        start(model, tmp_path, run)


def test_a_file(detector_file, reset_model, tmp_path, monkeypatch, capsys):
    path, old = detector_file
    model = reset_model(*SMALL, *PLAIN, "NUM_CLASSES=3")
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
    model = reset_model(*SMALL, *PLAIN, "NUM_CLASSES=3")
    start(model, tmp_path, "htc_r50_fpn_1x_coco", names)
    assert located == [("htc_r50_fpn_1x_coco", "--init_from")] and equal_parts(model, old, "backbone")


def test_a_file_of_another_architecture(detector_file, reset_model, tmp_path):
    model = reset_model(*SMALL, *PLAIN, "ResNet.depth=18")
    with pytest.raises(UserError, match=r"detector.pth is of another architecture: .*it lacks backbone.layer1.1.conv1"):
        start(model, tmp_path, str(detector_file[0]))
