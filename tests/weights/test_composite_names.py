"""Names of composite backbones: CBNetV2's at full size in both directions, its files, ImageNet weights for both."""

import gzip
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.models.backbones.composite import Composite
from htc_tf.models.backbones.swin import Swin
from htc_tf.models.mask_head import mask_information_flow
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import entries, mmdet_arrays
from htc_tf.weights.names import UNREAD
from htc_tf.weights.sources import read_weights
from htc_tf.weights.swin_names import rename_swin
from htc_tf.weights.versions import from_mmdet
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
SWIN = runpy.run_path(str(REFERENCE / "swin_weights.py"))
FULL = {
    "swin_b": "htc_cbv2_swin_b_fpn_ms_400_1400_20e",
    "resnet50": "faster_rcnn_cbv2d1_r50_fpn_1x",
}


def make_toy():
    """Returns the part of an HTC that the tables of names read."""
    backbone = Composite(Swin(**SWIN["TOY"], name="assistant"), Swin(**SWIN["TOY"], name="lead"))
    backbone(tf.zeros([1, 32, 32, 3]))
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def read_listing(lines):
    """Returns {name: a boolean array of its shape}, which takes a byte a number."""
    rows = dict(line.split("\t") for line in lines if not line.startswith("#"))
    return {key: np.empty([int(side) for side in sides.split(",") if side], bool) for key, sides in rows.items()}


@tf.autograph.experimental.do_not_convert  # which takes half a minute
def find_shapes(name, with_heads):
    """Returns {name in the tables: shape there} of a gin file's backbone and neck, and of an HTC's heads."""
    model = config.load([f"gin/cbnet/{name}_coco.gin"], ["STEPS=1"])[0].build_model()
    with tf.Graph().as_default():  # in which variables take no memory
        lead, _ = model.backbone(tf.zeros([1, 32, 32, 3]))
        pyramid, parts = model.neck(lead), [model.backbone, model.neck]
        if with_heads:
            parts += [model.rpn, model.semantic_head, *model.stages]
            for layer in (model.rpn.shared, model.rpn.objectness, model.rpn.deltas):
                layer(pyramid[5])
            model.semantic_head(pyramid)
            for stage in model.stages:
                stage.box_head(tf.zeros([1, 7, 7, 256]))
            masks = mask_information_flow(model.mask_heads, tf.zeros([1, 14, 14, 256]), True)
            for head, features in zip(model.mask_heads, masks, strict=True):
                head(features)
        model.built = True
        table = entries(model)
        assert len(table) == len({id(v) for part in parts for v in part.variables})
        return {entry.name: entry.their_shape(model) for entry in table}


@pytest.mark.parametrize("kind", ["resnet50", *slow("swin_b")])
def test_names_and_shapes_are_the_originals(kind):
    """At full size; mmdetection's HTC with a ResNet has the same heads."""
    packed = (REFERENCE / f"cbnet_{kind}_state_dict.txt.gz").read_bytes()
    theirs, _ = from_mmdet(read_listing(gzip.decompress(packed).decode().splitlines()), "listing")
    if kind == "swin_b":
        heads = read_listing((REFERENCE / "mmdet_state_dict.txt").read_text().splitlines())
        theirs |= {name: array for name, array in heads.items() if re.match("rpn_head|roi_head", name)}
    wanted = {name: array.shape for name, array in theirs.items() if not UNREAD.search(name)}
    assert find_shapes(FULL[kind], kind == "swin_b") == wanted


def authors(part):
    """Returns {name: array} of the toy Swin of its authors, for a part of a composite, with what their files hold."""
    weights = SWIN["state_dict"]("authors")
    weights |= {f"norm{level}.{leaf}": np.ones(4 * 2**level, "f4") for level in range(4) for leaf in ("weight", "bias")}
    weights["layers.0.blocks.0.attn.relative_position_index"] = np.zeros([49, 49], np.int64)
    return {f"backbone.cb_modules.{part}.{name}": array for name, array in weights.items()}


def test_a_detectors_file(write, tmp_path):
    """Both parts and the links, as CBNetV2 names them."""
    links = {}
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)):
        link, width = f"backbone.cb_linears.{i}.{j}", 4 * 2**i
        links[f"{link}.weight"] = np.full([width, width * 2**j, 1, 1], i + j, "f4")
        links[f"{link}.bias"] = np.zeros(width, "f4")
    heads = {"rpn_head.rpn_conv.bias": np.zeros(4, "f4")}
    second = {name: array for name, array in authors(1).items() if "patch_embed" not in name}
    write.pytorch_zip(tmp_path / "composite.pth", {"state_dict": {**authors(0), **second, **links, **heads}})
    weights = read_weights(tmp_path / "composite.pth")
    assert weights.source == "mmdet"
    network = make_toy()
    table = {entry.name: entry for entry in entries(network)}
    arrays = {name: array for name, array in weights.arrays.items() if not UNREAD.search(name)}
    assert arrays.keys() - {"rpn_head.rpn_conv.bias"} == table.keys()
    for name, entry in table.items():
        assert np.shape(arrays[name]) == entry.their_shape(network), name
    assert arrays["backbone.cb_linears.1.2.0.weight"].max() == 3
    expected = rename_swin(SWIN["state_dict"]("authors"), "backbone.cb_modules.1.")
    for name in expected.keys() & table.keys():
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)


def test_an_imagenet_swin_initializes_both_parts(write, tmp_path):
    """The links stay zero and the output norms one, as the original's."""
    path = tmp_path / "swin.pth"
    write.pytorch_zip(path, {"model": SWIN["state_dict"]("authors")})
    network = make_toy()
    assert load_backbone(path, network) == str(path)
    found = mmdet_arrays(network)
    for part in (0, 1):
        expected = rename_swin(SWIN["state_dict"]("authors"), f"backbone.cb_modules.{part}.")
        lacked = [name for name in expected if name not in found]
        assert len(lacked) == 4 * part and all("patch_embed" in name for name in lacked)
        for name in expected.keys() & found.keys():
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(found[f"backbone.cb_modules.{part}.norm3.weight"], np.ones(32))
    assert not any(array.any() for name, array in found.items() if "cb_linears" in name)


def test_weights_of_another_backbone_are_refused(write, tmp_path):
    path = tmp_path / "swin.pth"
    weights = SWIN["state_dict"]("authors")
    write.pytorch_zip(path, {"model": {**weights, "layers.3.blocks.2.mlp.fc1.bias": np.zeros(1, np.float32)}})
    with pytest.raises(UserError, match=r"does not fit Composite.*not in the model: backbone\.cb_modules\.0\.stages"):
        load_backbone(path, make_toy())
