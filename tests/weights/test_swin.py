"""Names of a Swin against lists derived from its configuration, and its authors' file as initial weights."""

import gzip
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.models.backbones.swin import Swin
from htc_tf.run import Run
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays, paddle_arrays
from htc_tf.weights.conversion import convert
from htc_tf.weights.names import UNREAD
from htc_tf.weights.swin_names import from_swin, rename_swin
from htc_tf.weights.tables.swin import CONSTANTS
from htc_tf.weights.versions import from_mmdet
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
WEIGHTS = runpy.run_path(str(REFERENCE / "swin_weights.py"))


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
    assert len(arrays) == len(network.variables) and not paddle_arrays(network, partial=True)
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


LISTED = [
    ("mask_rcnn_swin_t_fpn_3x_coco", "tiny"),
    *slow(("cascade_mask_rcnn_swin_s_fpn_3x_coco", "small"), ("cascade_mask_rcnn_swin_b_fpn_3x_coco", "base")),
]


@pytest.fixture(scope="module")
def listing():
    """Returns listing(part, ...): {name: shape} of the original modules, whose names begin with "PART."."""
    lines = gzip.decompress((REFERENCE / "swin_state_dict.txt.gz").read_bytes()).decode().splitlines()
    rows = [line.split("\t") for line in lines]
    shapes = {name: tuple(int(side) for side in sides.split(",") if side) for name, sides in rows}

    def choose(*parts):
        found = [name.split(".", 1) for name in shapes]
        return {name: shapes[f"{part}.{name}"] for part, name in found if part in parts}

    return choose


def read_names(listed):
    """Returns {mmdetection's name: shape} of a file with these names and shapes, without constants and counters."""
    arrays, _ = from_mmdet({name: np.empty(shape, np.bool_) for name, shape in listed.items()}, "x.pth")
    return {name: array.shape for name, array in arrays.items() if not UNREAD.search(name)}


def build_shapes(files, params=()):
    """Returns {mmdetection's name: shape} of the model of these gin files, at its full size."""
    model = config.load(files, ["RPN.inference_proposals=1", "Postprocess.keep=1", *params])[0].build_model()
    model.build_variables(blank=True)
    shapes = {entry.name: entry.their_shape(model) for entry in entries(model)}
    assert len(shapes) == len(model.variables)
    return shapes


@pytest.mark.parametrize(("name", "size"), LISTED)
def test_the_authors_detectors_have_all_names_and_no_others(name, size, listing):
    assert read_names(listing(size, name.split("_")[0])) == build_shapes([f"gin/swin/{name}.gin"])


def test_names_of_swin_l_with_windows_of_12(listing):
    files = ["gin/mask_rcnn_r50_fpn_1x_coco.gin", "gin/options/swin_l.gin"]
    found = {name: x for name, x in build_shapes(files, ["Swin.window=12"]).items() if name.startswith("backbone.")}
    listed = read_names(listing("large")).items()
    assert found == {name: shape for name, shape in listed if name.startswith("backbone.")}


def test_a_detector_of_the_authors_becomes_a_run(listing, write, tmp_path):
    """All names of their Swin-T cascade, in a small network with the same parts."""
    small = ["NUM_CLASSES=2", "BoxHead.channels=8", "BoxHead.conv_channels=4", "MaskHead.channels=4", "FPN.channels=4"]
    small += ["RPN.channels=4", "Swin.channels=4", "Swin.heads=(1, 1, 2, 2)"]
    small += ["RPN.inference_proposals=1", "Postprocess.keep=1"]
    experiment, resolved = config.load(["gin/swin/cascade_mask_rcnn_swin_t_fpn_3x_coco.gin"], small)
    model = experiment.build_model()
    model.build_variables()
    listed = [name for name in listing("tiny", "cascade") if not re.search(CONSTANTS, name)]
    ours, _ = from_mmdet({name: np.zeros([4], np.float32) for name in listed}, "x.pth")
    names = dict(zip(ours, listed, strict=True))  # renaming keeps the order
    rng = np.random.default_rng(0)
    arrays = {names[name]: rng.random(array.shape, np.float32) for name, array in mmdet_arrays(model).items()}
    assert arrays.keys() == set(listed)
    write.pytorch_zip(tmp_path / "detector.pth", {"state_dict": arrays, "meta": {}})
    annotations = tmp_path / "classes.json"
    annotations.write_text(json.dumps({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}))
    run = Run(tmp_path / "run")
    loaded = convert(experiment, resolved, tmp_path / "detector.pth", run, annotations=annotations)
    assert loaded == (len(model.variables), len(model.variables))
    restored = tf.train.load_checkpoint(Checkpoints(run, model).latest)
    found = [name for name in restored.get_variable_to_shape_map() if "box_head/convs/3/norm/moving_variance" in name]
    expected = [arrays[f"roi_head.bbox_head.{stage}.shared_convs.3.bn.running_var"] for stage in range(3)]
    assert sorted(restored.get_tensor(name).tolist() for name in found) == sorted(x.tolist() for x in expected)
