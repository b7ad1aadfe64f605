"""Sources of weights: detected from the names in a file, with the classes that it states."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from htc_tf.data.coco_classes import THING_NAMES
from htc_tf.errors import UserError
from htc_tf.weights.names import Framework
from htc_tf.weights.sources import detect, read_weights

SWIN = runpy.run_path(str(Path(__file__).resolve().parents[1] / "reference" / "swin_weights.py"))

MMDET = ["backbone.conv1.weight", "neck.lateral_convs.0.conv.weight", "rpn_head.rpn_cls.bias"]
NAMES = {
    "mmdet": [
        [*MMDET, "roi_head.bbox_head.0.fc_cls.bias"],
        [*MMDET, "bbox_head.0.fc_cls.bias", "mask_head.0.conv_logits.bias"],
        ["backbone.patch_embed.projection.weight", "rpn_head.rpn_cls.bias"],
        ["backbone.patch_embed.proj.weight", "roi_head.bbox_head.0.shared_convs.0.conv.weight"],
        ["backbone.conv1.weight", "bbox_head.shared_fcs.0.weight"],
        ["backbone.downsample_layers.0.0.weight", "backbone.stages.0.0.dwconv.weight", "rpn_head.rpn_cls.bias"],
    ],
    "paddle": [["backbone.conv1.conv1.conv.weight", "backbone.res2.res2a.branch2a.conv.weight", "rpn_head.x.weight"]],
    "torchvision": [["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"]],
    "detectron2": [
        ["backbone.bottom_up.stem.conv1.weight", "roi_heads.box_predictor.0.cls_score.bias"],
        ["backbone.net.pos_embed", "roi_heads.box_predictor.cls_score.bias"],
    ],
    "caffe2": [["conv1_w", "res_conv1_bn_gamma", "res2_0_branch2a_w", "fc1000_w"]],
    "swin": [["patch_embed.proj.weight", "layers.0.blocks.0.norm1.weight", "head.weight"]],
    "convnext": [["downsample_layers.0.0.weight", "stages.0.0.gamma", "stages.0.0.dwconv.weight", "head.weight"]],
}
OTHERS = {
    "of detectron2, but no Mask or Cascade R-CNN with FPN": ["backbone.bottom_up.res2.0.x", "head.cls_score.weight"],
    "of detectron2": ["backbone.res2.0.conv1.weight", "proposal_generator.rpn_head.conv.weight"],
    "a detector of torchvision": [
        "backbone.body.conv1.weight",
        "rpn.head.conv.0.0.weight",
        "roi_heads.box_head.fc6.bias",
    ],
    "a YOLO of ultralytics": ["model.0.conv.weight", "model.22.dfl.conv.weight"],
    "a Transformer such as DETR": ["model.encoder.layers.0.fc1.bias", "class_labels_classifier.weight"],
    "another backbone": ["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"],
    "another detector or classifier of OpenMMLab": ["backbone.conv1.weight", "bbox_head.retina_cls.bias"],
    "it has weights such as a.w, b.w, c.w": ["a.w", "b.w", "c.w"],
}


@pytest.mark.parametrize(("source", "names"), [(source, names) for source in NAMES for names in NAMES[source]])
def test_detect(source, names):
    for order in (names, names[::-1]):
        assert detect(dict.fromkeys(order), "x.pth") == source


@pytest.mark.parametrize("words", OTHERS)
def test_other_architectures_are_named(words):
    with pytest.raises(UserError, match=r"x\.pth is of another architecture") as error:
        detect(dict.fromkeys(OTHERS[words]), "x.pth")
    assert words in str(error.value) and OTHERS[words][0] in str(error.value)


def detector(classes, meta=None, name="roi_head.bbox_head.0.fc_cls.bias"):
    weights = {"backbone.conv1.weight": np.ones([4, 3, 7, 7], "f4"), "rpn_head.rpn_cls.bias": np.ones(3, "f4")}
    return {"state_dict": {**weights, name: np.arange(classes + 1, dtype="f4")}, "meta": meta or {}}


@pytest.mark.parametrize(
    ("classes", "meta", "expected"),
    [
        (2, {"dataset_meta": {"classes": ("cat", "dog")}}, ["cat", "dog"]),
        (2, {"CLASSES": ["cat", "dog"]}, ["cat", "dog"]),
        (3, {"CLASSES": ["cat", "dog"]}, None),
        (3, {}, None),
        (80, {}, list(THING_NAMES.values())),
        (80, {"CLASSES": [f"c{i}" for i in range(80)]}, [f"c{i}" for i in range(80)]),
        (80, {"CLASSES": ["cat", "dog"]}, None),
    ],
)
def test_class_names(write, tmp_path, classes, meta, expected):
    for name in ("roi_head.bbox_head.0.fc_cls.bias", "roi_head.bbox_head.fc_cls.bias", "bbox_head.0.fc_cls.bias"):
        write.pytorch_zip(tmp_path / "x.pth", detector(classes, meta, name))
        assert read_weights(tmp_path / "x.pth").class_names == expected


def test_paddle(write, tmp_path):
    named = {"backbone.res2.res2a.w": np.ones(2, "f4"), "bbox_head.bbox_score_stage0.bias": np.ones(81, "f4")}
    write.paddle_arrays(tmp_path / "x.pdparams", named)
    weights = read_weights(tmp_path / "x.pdparams")
    assert weights.arrays.keys() == named.keys()
    assert (weights.source, weights.framework, weights.notes) == ("paddle", Framework.PADDLE, [])
    assert weights.class_names[:2] == ["person", "bicycle"] and len(weights.class_names) == 80


@pytest.mark.parametrize("writer", ["pytorch_zip", "pytorch_legacy"])
def test_a_training_checkpoint_of_mmengine(write, tmp_path, writer):
    """The weights are read, and the history of the losses, the configuration and the optimizer are passed over."""
    path, named = tmp_path / "epoch_12.pth", detector(3)["state_dict"]
    write.mmengine_epoch(path, named, getattr(write, writer))
    assert all(word in path.read_bytes() for word in (b"HistoryBuffer", b"ConfigDict", b"getattr", b"Namespace"))
    weights = read_weights(path)
    assert weights.source == "mmdet" and weights.class_names == ["cat", "dog", "street sign"]
    assert weights.arrays.keys() == named.keys()
    for name, array in named.items():
        np.testing.assert_array_equal(weights.arrays[name], array)


def test_averaged_weights_of_mmengine(write, tmp_path):
    path, averaged = tmp_path / "epoch_12.pth", detector(3)["state_dict"]
    last = {f"module.{name}": array + 1 for name, array in averaged.items()}
    write.mmengine_epoch(path, averaged, ema_state_dict={**last, "steps": np.array(7)})
    for ema, difference in ((None, 0), (True, 0), (False, 1)):
        arrays = read_weights(path, ema=ema).arrays
        assert arrays.keys() == averaged.keys()
        for name, array in averaged.items():
            np.testing.assert_array_equal(arrays[name], array + difference)
    write.mmengine_epoch(path, averaged)
    with pytest.raises(UserError, match=r"epoch_12\.pth holds no averaged \(EMA\) weights"):
        read_weights(path, ema=True)


def test_a_detector_of_swins_authors(write, tmp_path):
    """The names in its backbone are its authors', those of its heads mmdetection's."""
    authors, mmdet = (SWIN["state_dict"](kind) for kind in ("authors", "mmdet"))
    norms = {name: array for name, array in mmdet.items() if name.startswith("norm")}
    head = detector(3)["state_dict"]
    del head["backbone.conv1.weight"]
    named = {f"backbone.{name}": array for name, array in (authors | norms).items()} | head
    write.pytorch_zip(tmp_path / "x.pth", {"state_dict": named})
    weights = read_weights(tmp_path / "x.pth")
    assert weights.source == "mmdet"
    assert weights.arrays.keys() == {f"backbone.{name}" for name in mmdet} | head.keys()


def test_another_architecture_is_refused_before_its_arrays_are_made(write, tmp_path):
    write.pytorch_zip(tmp_path / "x.pth", {"backbone.bottom_up.x": write.View(np.zeros(1, "f4"), 9, (99,), (1,))})
    with pytest.raises(UserError, match=r"of another architecture, of detectron2"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_failed_training_is_refused(write, tmp_path, value):
    weights = {"backbone.conv1.weight": np.array([1, value]), "rpn_head.rpn_cls.bias": np.ones(3)}
    write.pytorch_zip(tmp_path / "x.pth", weights)
    with pytest.raises(UserError, match=r"x\.pth holds NaN or infinity in backbone\.conv1\.weight"):
        read_weights(tmp_path / "x.pth")
