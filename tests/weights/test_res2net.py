"""Res2Net's and HRNet's names against the originals' own, and files with ImageNet weights as initial ones."""

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
from htc_tf.models.backbones import resnet
from htc_tf.models.backbones.hrnet import HRNet
from htc_tf.models.backbones.res2net import Res2Net
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import entries, mmdet_arrays, paddle_arrays
from htc_tf.weights.names import COUNTER
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))


def read_listing(name):
    """Returns {name: shape} of the original's state dict at full size, without PyTorch's counters."""
    rows = [line.split("\t") for line in gzip.decompress((REFERENCE / f"{name}.gz").read_bytes()).decode().splitlines()]
    shapes = {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows}
    return {name: shape for name, shape in shapes.items() if not name.endswith(COUNTER)}


def fpn():
    """Returns {name: shape} of the FPN of a backbone with bottlenecks."""
    convs = {f"neck.fpn_convs.{level}.conv.weight": (256, 256, 3, 3) for level in range(4)}
    convs |= {f"neck.lateral_convs.{level}.conv.weight": (256, 256 << level, 1, 1) for level in range(4)}
    return convs | {name.replace("weight", "bias"): (256,) for name in convs}


@pytest.mark.parametrize(
    "file, listing, blocks",
    [
        ("res2net/htc_r2_101_fpn_20e_coco", "res2net_state_dict.txt", 2),
        ("hrnet/htc_hrnetv2p_w18_20e_coco", "hrnet_w18_state_dict.txt", None),
        *slow(
            ("res2net/htc_r2_101_fpn_20e_coco", "res2net_state_dict.txt", None),
            ("res2net/cascade_mask_rcnn_r2_101_fpn_20e_coco", "res2net_state_dict.txt", None),
            ("res2net/mask_rcnn_r2_101_fpn_2x_coco", "res2net_state_dict.txt", None),
            ("hrnet/htc_hrnetv2p_w32_20e_coco", "hrnet_w32_state_dict.txt", None),
            ("hrnet/htc_hrnetv2p_w40_20e_coco", "hrnet_w40_state_dict.txt", None),
        ),
    ],
)
@tf.autograph.experimental.do_not_convert  # which takes half a minute
def test_names_and_shapes_are_the_originals(file, listing, blocks, monkeypatch):
    """Of backbone and neck; what follows is as with a ResNet, see test_names. `blocks`: of the first of each stage."""
    if blocks:
        monkeypatch.setitem(resnet.BLOCKS, 101, (blocks,) * 4)
    model = config.load([f"gin/{file}.gin"], [])[0].build_model()
    with tf.Graph().as_default():  # no variable is initialized
        model.neck(model.backbone(tf.zeros([1, 64, 64, 3])))
        model.built = True  # in part
        found = entries(model)
        assert len(found) == len(model.variables)
    shapes = {name: layout.theirs(np.empty(variable.shape, bool), model).shape for name, variable, layout in found}
    wanted = read_listing(listing) | (fpn() if "res2net" in file else {})
    if blocks:
        numbers = {name: re.match(r"backbone\.layer\d\.(\d+)\.", name) for name in wanted}
        wanted = {name: shape for name, shape in wanted.items() if not numbers[name] or int(numbers[name][1]) < blocks}
    assert shapes == wanted


def make_network(backbone):
    """Returns the part of an HTC that the tables of names read."""
    backbone(tf.zeros([1, 64, 64, 3]))
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def write_classifier(write, path, network, rename, **more):
    """Writes a classifier's file: drawn weights of the network's backbone under renamed names, and more arrays.

    Returns:
        {mmdetection's name: array}, what the backbone should get.
    """
    drawn = DRAWN["state_dict"]({name: array.shape for name, array in mmdet_arrays(network).items()})
    write.pytorch_zip(
        path, {"state_dict": {rename(name.removeprefix("backbone.")): drawn[name] for name in drawn} | more}
    )
    return drawn


def theirs(name):
    """Returns the name of a Res2Net's weight in the files of its authors."""
    return re.sub(r"^stem\.7\.", "bn1.", name).replace("stem.", "conv1.")


@pytest.mark.parametrize("rename", [str, theirs])
def test_a_res2net_classifier_initializes_the_backbone(rename, write, tmp_path):
    network, path = make_network(Res2Net(depth=50, width=4)), tmp_path / "res2net.pth"
    end = {"fc.weight": np.ones([5, 128], np.float32), "fc.bias": np.ones(5, np.float32)}
    drawn = write_classifier(write, path, network, rename, **end)
    assert load_backbone(path, network) == str(path)
    for name, array in mmdet_arrays(network).items():
        np.testing.assert_array_equal(array, drawn[name], err_msg=name)
    assert not paddle_arrays(network, partial=True)
    with pytest.raises(ValueError, match=r"PADDLE has no name for \d+ of the model's \d+ variables, such as"):
        paddle_arrays(network)


def test_an_hrnet_classifier_initializes_the_backbone(write, tmp_path):
    network, path = make_network(HRNet(width=2, blocks=1, exchanges=(1, 2, 1))), tmp_path / "hrnet.pth"
    parts = ("incre_modules.0.0.conv1", "downsamp_modules.0.0", "final_layer.0", "classifier")
    end = {f"{part}.weight": np.ones([3, 2], np.float32) for part in parts}
    drawn = write_classifier(write, path, network, str, **end)
    assert load_backbone(path, network) == str(path)
    for name, array in mmdet_arrays(network).items():
        np.testing.assert_array_equal(array, drawn[name], err_msg=name)
    with pytest.raises(UserError, match="does not fit HRNet as configured"):
        load_backbone(path, make_network(HRNet(width=3, blocks=1, exchanges=(1, 2, 1))))
