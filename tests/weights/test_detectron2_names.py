"""detectron2's names against lists of the original networks at full size, BGR images, and Caffe2's backbones."""

import functools
import gzip
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.weights import detectron2_arrays, mmdet_arrays
from htc_tf.weights.assign import load
from htc_tf.weights.conversion import check_unmatched
from htc_tf.weights.detectron2_names import (
    BOTTOM_UP,
    MODULES,
    STEM,
    from_detectron2,
    rename,
    rename_caffe2,
    to_detectron2,
)
from htc_tf.weights.sources import SOURCES, read_weights
from tests.slow import slow

LISTING = Path(__file__).resolve().parents[1] / "reference" / "detectron2_state_dict.txt.gz"
CONFIGS = {
    "mask_rcnn_r50_fpn": "mask_rcnn_r50_fpn_3x_coco",
    "mask_rcnn_r101_fpn": "mask_rcnn_r101_fpn_3x_coco",
    "mask_rcnn_x101_32x8d_fpn": "mask_rcnn_x101_32x8d_fpn_3x_coco",
    "cascade_mask_rcnn_r50_fpn": "cascade_mask_rcnn_r50_fpn_3x_coco",
}
DEEP = ("mask_rcnn_r101_fpn", "mask_rcnn_x101_32x8d_fpn")
CAFFE2 = {
    "conv1_w": "stem.conv1.weight",
    "res_conv1_bn_gamma": "stem.conv1.norm.weight",
    "res_conv1_bn_riv": "stem.conv1.norm.running_var",
    "res2_0_branch1_w": "res2.0.shortcut.weight",
    "res4_22_branch2c_bn_running_mean": "res4.22.conv3.norm.running_mean",
    "res3_3_branch2a_bn_b": "res3.3.conv1.norm.bias",
    "res5_2_branch2b_w": "res5.2.conv2.weight",
}


def listing(name):
    """Returns {name: shape} of the original network."""
    rows = [line.split("\t") for line in gzip.decompress(LISTING.read_bytes()).decode().splitlines()]
    return {key: tuple(map(int, sides.split(","))) for config, key, sides in rows if config == name}


@functools.cache
def build(name):
    """Returns a full-size model, whose variables are zero until a test loads it."""
    experiment, _ = config.load([f"gin/detectron2/{name}.gin"], [])
    model = experiment.build_model()
    model.build_variables(blank=True)
    return model


@pytest.mark.parametrize("name", ["cascade_mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn", *slow(*DEEP)])
def test_names_and_shapes_are_the_originals(name):
    arrays, expected = detectron2_arrays(build(CONFIGS[name])), listing(name)
    assert {key: array.shape for key, array in arrays.items()} == expected
    # And back: the names of a file become those of the tables.
    mmdet, _ = from_detectron2({key: np.empty(shape, bool) for key, shape in expected.items()}, "x.pkl")
    assert {key: array.shape for key, array in to_detectron2(mmdet).items()} == expected


@pytest.mark.parametrize("stage", ["", ".0", ".2"])
@pytest.mark.parametrize("row", MODULES)
def test_every_row_reads_its_own_names(row, stage):
    there, here = (module.replace("{s:.}", stage) for module in row)
    there = re.sub(r"{\w:?(\d?)}", lambda first: str(int(first[1] or 0) + 1), there)  # the second of each index
    here = re.sub(r"{\w:?(\d?)}", lambda first: str(int(first[1] or 0) + 1), here)
    assert rename(f"{there}.bias", 0) == f"{here}.bias" and rename(f"{here}.bias", 1) == f"{there}.bias"


def test_what_detectron2_has_no_name_for(tiny_model):
    """Its networks have one mask head and no semantic branch."""
    _, model = tiny_model()
    with pytest.raises(
        ValueError, match=r"detectron2 has no name for \d+ of .*, such as roi_head\.\S+: partial=True leaves"
    ):
        detectron2_arrays(model)
    names = detectron2_arrays(model, partial=True).keys()
    assert {"backbone.fpn_lateral2.norm.weight", "roi_heads.box_head.2.fc1.weight"} <= names
    assert {name.split(".")[0] for name in names} == {"backbone", "proposal_generator", "roi_heads"}
    assert not [name for name in names if "mask_head" in name]


def test_other_names_stay():
    assert rename("backbone.net.pos_embed", 0) == "backbone.net.pos_embed"  # of another table
    assert rename("backbone.bottom_up.res4.22.conv3.norm.bias", 0) == "backbone.layer3.22.bn3.bias"


@pytest.mark.parametrize(
    ("mean", "flipped"), [(None, True), ((103.53, 116.28, 123.675), True), ((123.675, 116.28, 103.53), False)]
)
def test_the_first_convolution_reads_rgb(mean, flipped):
    """A file may hold the mean of the pixels, which tells the order of its channels."""
    kernel = np.arange(24.0).reshape(2, 3, 2, 2)
    arrays = {STEM: kernel, "proposal_generator.anchor_generator.cell_anchors.0": np.zeros([3, 4])}
    if mean:
        arrays |= {"pixel_mean": np.reshape(mean, [3, 1, 1]), "pixel_std": np.ones([3, 1, 1])}
    found, notes = from_detectron2(arrays, "x.pkl")
    assert found.keys() == {"backbone.conv1.weight"} and not notes
    np.testing.assert_array_equal(found["backbone.conv1.weight"], kernel[:, ::-1] if flipped else kernel)
    if flipped:
        np.testing.assert_array_equal(to_detectron2(found)[STEM], kernel)


def test_a_first_convolution_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"^x\.pkl is damaged"):
        from_detectron2({STEM: np.zeros(3)}, "x.pkl")


@pytest.mark.parametrize("name", CAFFE2)
def test_names_of_caffe2(name):
    assert rename_caffe2(name) == CAFFE2[name]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_backbone_of_caffe2(tmp_path, protocol):
    """Its .pkl is a dict of arrays, without a wrapper."""
    model, path = build(CONFIGS["mask_rcnn_r50_fpn"]), tmp_path / "R-50.pkl"
    shapes = {key: shape for key, shape in listing("mask_rcnn_r50_fpn").items() if key.startswith(BOTTOM_UP)}
    named = {to_caffe2(key): np.ones(shape, np.float32) for key, shape in shapes.items()}
    assert len(named) == 265
    rest = {"fc1000_w": np.zeros([10, 2048], np.float32), "fc1000_b": np.zeros(10, np.float32)}
    rest["conv1_b"] = np.zeros(64, np.float32)
    path.write_bytes(pickle.dumps(named | rest, protocol))
    weights = read_weights(path)
    assert weights.source == "caffe2" and len(weights.arrays) == 265
    unmatched = load(model, weights.arrays, weights.framework)
    assert not unmatched.unexpected and not unmatched.mismatched
    check_unmatched(unmatched, [], SOURCES["caffe2"].absent, path)
    assert all((array == 1).all() for key, array in mmdet_arrays(model).items() if key in weights.arrays)


def to_caffe2(name):
    """Returns the name in MSRA/R-50.pkl of a name of detectron2's ResNet."""
    name = name.removeprefix(BOTTOM_UP).replace("shortcut", "branch1")
    for i, letter in enumerate("abc", start=1):
        name = name if name.startswith("stem") else name.replace(f"conv{i}", f"branch2{letter}")
    name = name.replace("stem.conv1.norm", "res_conv1.norm").replace("stem.", "")
    name = name.replace("norm.weight", "bn_gamma").replace("norm.bias", "bn_beta").replace("norm.", "bn_")
    return name.replace(".weight", "_w").replace(".", "_")
