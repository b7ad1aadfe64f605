"""Names and shapes of mmdetection's models with an experiment config here, derived from their configurations.

The derivation is checked against mmdetection's own list for HTC R50 in tests/reference.
"""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.weights import Unmatched, entries, load_mmdet
from htc_tf.weights.names import COUNTER
from htc_tf.weights.versions import from_mmdet
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
CLASSES, LABELS = 80, 183
SMALL = ["RPN.inference_proposals=1", "Postprocess.keep=1"]
X101 = {"depth": 101, "groups": 64, "group_width": 4}
HTC = {"flow": True, "semantic": True}
BACKBONES = {
    "htc_r50_fpn_20e_coco": {},
    "htc_r101_fpn_20e_coco": {"depth": 101},
    "htc_x101_32x4d_fpn_20e_coco": {**X101, "groups": 32},
    "htc_x101_64x4d_fpn_20e_coco": X101,
    "htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco": {**X101, "deformable": (2, 3, 4)},
}
HEADS = {
    "htc_r50_fpn_1x_coco": HTC,
    "cascade_mask_rcnn_r50_fpn_1x_coco": {},
    "cascade_rcnn_r50_fpn_1x_coco": {"masks": False},
    "mask_rcnn_r50_fpn_1x_coco": {"stages": 1, "deltas": 4 * CLASSES},
    "faster_rcnn_r50_fpn_1x_coco": {"stages": 1, "deltas": 4 * CLASSES, "masks": False},
}


def convolution(name, outputs, inputs, side):
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name, channels):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in leaves} | {f"{name}.{COUNTER}": ()}


def backbone(depth=50, groups=1, group_width=64, deformable=()):
    """Returns {name: shape} of a ResNet or ResNeXt with its FPN; stage 2 of `deformable` is C3."""
    listing = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        planes = 32 * 2**stage
        width = planes * group_width // 64 * groups
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            listing |= {f"{name}.conv1.weight": (width, inputs, 1, 1), **norm(f"{name}.bn1", width)}
            listing |= {f"{name}.conv2.weight": (width, width // groups, 3, 3), **norm(f"{name}.bn2", width)}
            listing |= {f"{name}.conv3.weight": (4 * planes, width, 1, 1), **norm(f"{name}.bn3", 4 * planes)}
            if stage in deformable:
                listing |= convolution(f"{name}.conv2.conv_offset", 2 * 3 * 3, width, 3)
            if block == 0:
                listing[f"{name}.downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                listing |= norm(f"{name}.downsample.1", 4 * planes)
            inputs = 4 * planes
    listing = {f"backbone.{name}": shape for name, shape in listing.items()}
    for level, channels in enumerate((256, 512, 1024, 2048)):
        listing |= convolution(f"neck.lateral_convs.{level}.conv", 256, channels, 1)
        listing |= convolution(f"neck.fpn_convs.{level}.conv", 256, 256, 3)
    return listing


def heads(stages=3, masks=True, flow=False, semantic=False, deltas=4):
    """Returns {name: shape} of all that follows the pyramid."""
    listing = convolution("rpn_head.rpn_conv", 256, 256, 3)
    listing |= convolution("rpn_head.rpn_cls", 3, 256, 1) | convolution("rpn_head.rpn_reg", 12, 256, 1)
    for stage in range(stages):
        number = f".{stage}" if stages > 1 else ""  # a list of heads, or one head
        head = f"roi_head.bbox_head{number}"
        listing |= linear(f"{head}.fc_cls", CLASSES + 1, 1024) | linear(f"{head}.fc_reg", deltas, 1024)
        listing |= linear(f"{head}.shared_fcs.0", 1024, 7 * 7 * 256) | linear(f"{head}.shared_fcs.1", 1024, 1024)
        if masks:
            head = f"roi_head.mask_head{number}"
            for i in range(4):
                listing |= convolution(f"{head}.convs.{i}.conv", 256, 256, 3)
            listing |= convolution(f"{head}.upsample", 256, 256, 2)
            listing |= convolution(f"{head}.conv_logits", CLASSES, 256, 1)
            if flow and stage > 0:
                listing |= convolution(f"{head}.conv_res.conv", 256, 256, 1)
    if semantic:
        head = "roi_head.semantic_head"
        for i in range(5):
            listing |= convolution(f"{head}.lateral_convs.{i}.conv", 256, 256, 1)
        for i in range(4):
            listing |= convolution(f"{head}.convs.{i}.conv", 256, 256, 3)
        listing |= convolution(f"{head}.conv_embedding.conv", 256, 256, 1)
        listing |= convolution(f"{head}.conv_logits", LABELS, 256, 1)
    return listing


@pytest.fixture
def build(monkeypatch):
    """Returns build(name, ...): model without variables, to be initialized with zeros: random values take seconds."""
    for kind in (tf.keras.initializers.VarianceScaling, tf.keras.initializers.RandomNormal):
        monkeypatch.setattr(kind, "__call__", lambda self, shape, dtype=None, **_: tf.zeros(shape, dtype))
    return lambda name, *params: config.load([f"gin/{name}.gin"], [*SMALL, *params])[0].build_model()


def build_heads(model):
    """Creates the variables of all that follows the pyramid."""
    pyramid = {level: tf.zeros([1, 64 >> level, 64 >> level, 256]) for level in range(2, 7)}
    model.backbone, model.neck = (lambda *_, **__: None), (lambda *_, **__: pyramid)
    model.infer(tf.zeros([1, 64, 64, 3], tf.uint8), tf.constant([[64.0, 64.0]]))


def listing_of(model):
    """Returns {mmdetection's name: shape there} of a model's variables, without PyTorch's counters."""
    model.built = True  # in part
    found = entries(model)
    assert len(found) == len(model.variables)
    return {name: layout.theirs(np.empty(variable.shape, np.bool_), model).shape for name, variable, layout in found}


def without_counters(listing):
    return {name: shape for name, shape in listing.items() if not name.endswith(COUNTER)}


def test_the_derivation_matches_mmdetection():
    lines = (REFERENCE / "mmdet_state_dict.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    known = {name: tuple(int(side) for side in sides.split(",") if side.isdigit()) for name, sides in rows}
    assert backbone() | heads(**HTC) == known


ALIKE = ("htc_r101_fpn_20e_coco", "htc_x101_32x4d_fpn_20e_coco", "htc_x101_64x4d_fpn_20e_coco")


@pytest.mark.parametrize("name", [*(name for name in BACKBONES if name not in ALIKE), *slow(*ALIKE)])
def test_backbones(build, name):
    model = build(name)
    model.neck(model.backbone(tf.zeros([1, 64, 64, 3])))
    assert listing_of(model) == without_counters(backbone(**BACKBONES[name]))


@pytest.mark.parametrize("name", HEADS)
def test_heads(build, name):
    model = build(name)
    build_heads(model)
    assert listing_of(model) == heads(**HEADS[name])


def test_every_model_has_a_listing():
    files = Path(config.ROOTS[0], "gin").glob("*_coco.gin")
    without_weights = {"htc_r50_fpn_lsj_100e_coco"}
    assert {path.stem for path in files} == BACKBONES.keys() | HEADS.keys() | without_weights
    # Of the families the original's own lists, at full size; their tests compare them.
    families = {path.parent.name for path in Path(config.ROOTS[0], "gin").glob("*/*_coco.gin")}
    listings = [path.name for path in REFERENCE.glob("*_state_dict.txt.gz")]
    assert not [family for family in families if not any(family in name for name in listings)]


def test_mask_rcnn_of_mmdetection_1(build):
    """One head without a number, deltas per class, and the background as class 0."""
    model = build("mask_rcnn_r50_fpn_1x_coco", "NUM_CLASSES=2", "BoxHead.channels=8", "MaskHead.channels=8")
    build_heads(model)
    rng = np.random.default_rng(0)
    new = {name: rng.random(shape, np.float32) for name, shape in listing_of(model).items()}
    old = {name.removeprefix("roi_head."): array for name, array in new.items()}
    for name, array in old.items():
        if ".fc_cls." in name:
            old[name] = np.concatenate([array[2:], array[:2]])
        if ".fc_reg." in name or ".conv_logits." in name:
            old[name] = np.concatenate([np.ones_like(array[: len(array) // 2]), array])
    assert old["bbox_head.fc_reg.bias"].shape == (12,) and old["mask_head.conv_logits.bias"].shape == (3,)
    arrays, (note,) = from_mmdet(old, "x.pth")
    assert load_mmdet(model, arrays) == Unmatched([], [], []) and "mmdetection 1" in note
    # The second class has the deltas dx, dy, dw, dh there and dy, dx, dh, dw here.
    bias = old["bbox_head.fc_reg.bias"]
    np.testing.assert_array_equal(model.stages[0].box_head.regressor.bias[4:], bias[[9, 8, 11, 10]])
    np.testing.assert_array_equal(model.stages[0].box_head.classifier.bias, old["bbox_head.fc_cls.bias"][[1, 2, 0]])


def test_offsets_of_mmdetection_1():
    named = {"backbone.layer2.0.conv2_offset.weight": np.ones(3), "bbox_head.0.fc_cls.bias": np.ones(3)}
    arrays, _ = from_mmdet(named, "x.pth")
    assert "backbone.layer2.0.conv2.conv_offset.weight" in arrays
