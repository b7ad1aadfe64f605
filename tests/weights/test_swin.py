"""Names of a Swin against lists derived from its configuration, and its authors' file as initial weights."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.backbones.swin import Swin
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import Unmatched, load_mmdet, mmdet_arrays, paddle_arrays
from htc_tf.weights.swin_names import from_swin, rename_swin

WEIGHTS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "reference" / "swin_weights.py"))


def make_network(sizes):
    """Returns the parts of an HTC that the tables of names read."""
    swin = Swin(**WEIGHTS[sizes])
    swin(tf.zeros([1, 32, 32, 3]))
    return SimpleNamespace(backbone=swin, built=True, variables=swin.variables)


def test_names_and_shapes_of_swin_t():
    network = make_network("TINY")
    assert sum(int(np.prod(v.shape)) for v in network.variables) == 27_520_698
    arrays = mmdet_arrays(network)
    listing = WEIGHTS["shapes"]("mmdet", **WEIGHTS["TINY"])
    assert {name: array.shape for name, array in arrays.items()} == {f"backbone.{n}": s for n, s in listing.items()}
    assert len(arrays) == len(network.variables) and not paddle_arrays(network)
    authors = {name: np.empty(shape, bool) for name, shape in WEIGHTS["shapes"]("authors", **WEIGHTS["TINY"]).items()}
    renamed = {name: array.shape for name, array in rename_swin(authors).items()}
    norms = {f"backbone.norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")}
    assert renamed == {name: array.shape for name, array in arrays.items() if name not in norms}


def test_round_trip():
    network = make_network("TOY")
    arrays = {f"backbone.{name}": array for name, array in WEIGHTS["state_dict"]("mmdet").items()}
    constant = {"backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": np.zeros([49, 49], np.int64)}
    assert load_mmdet(network, {**arrays, **constant}) == Unmatched([], [], [])
    back = mmdet_arrays(network)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    # Channels of the merged 2 x 2 patches: (c, y, x) there, (y, x, c) here.
    kernel = arrays["backbone.stages.1.downsample.reduction.weight"]
    channel, y, x = 5, 1, 0
    ours = network.backbone.mergings[1].reduction.kernel[(2 * y + x) * 8 + channel]
    np.testing.assert_array_equal(ours, kernel[:, (channel * 2 + y) * 2 + x])


@pytest.fixture
def authors_file(write, tmp_path):
    """Returns make(**changes): a checkpoint of the toy network with everything that the authors' files hold."""

    def make(**changes):
        weights = {**WEIGHTS["state_dict"]("authors"), **changes}
        weights |= {"norm.weight": np.ones(32, np.float32), "head.weight": np.ones([5, 32], np.float32)}
        weights["layers.0.blocks.0.attn.relative_position_index"] = np.zeros([49, 49], np.int64)
        weights["layers.1.blocks.1.attn_mask"] = np.zeros([4, 49, 49], np.float32)
        path = tmp_path / "swin.pth"
        write.pytorch_zip(path, {"model": weights})
        return path

    return make


def test_a_file_of_the_authors_initializes_the_backbone(authors_file):
    network, path = make_network("TOY"), authors_file()
    assert load_backbone(path, network) == str(path)
    found = mmdet_arrays(network)
    for name, array in rename_swin(WEIGHTS["state_dict"]("authors")).items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(found["backbone.norm3.weight"], np.ones(32))


def test_mismatches_are_named(authors_file, write, tmp_path):
    path = authors_file(
        **{"patch_embed.norm.bias": np.zeros(5, np.float32), "layers.3.blocks.2.x": np.zeros(1, np.float32)}
    )
    with pytest.raises(UserError, match=r"does not fit Swin.*stages\.3\.blocks\.2\.x.*patch_embed\.norm\.bias: \[4\]"):
        load_backbone(path, make_network("TOY"))
    resnet = {"conv1.weight": np.zeros([4, 3, 7, 7], "f4"), "layer1.0.bn1.bias": np.zeros(4, "f4")}
    write.pytorch_zip(tmp_path / "resnet.pth", resnet)
    with pytest.raises(UserError, match=r"does not fit Swin.*it lacks backbone\.patch_embed"):
        load_backbone(tmp_path / "resnet.pth", make_network("TOY"))
    with pytest.raises(UserError, match=r"not a Swin Transformer of its authors: it lacks patch_embed\.proj"):
        from_swin({"conv1.weight": np.zeros([4, 3, 7, 7])}, "resnet.pth")
