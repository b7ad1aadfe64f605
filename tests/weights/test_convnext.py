"""Names, shapes and learning rates of ConvNeXt against the original at full size; its authors' classifiers."""

import gzip
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.models.backbones.convnext import ConvNeXt
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays, paddle_arrays
from htc_tf.weights.convnext_names import from_convnext
from htc_tf.weights.sources import read_weights
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))
SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "xl": "xlarge"}
FILES = sorted(path.stem for path in Path(config.ROOTS[0], "gin", "convnext").glob("*.gin"))
OUTPUT_NORMS = {f"backbone.norm{stage}.{leaf}" for stage in range(4) for leaf in ("weight", "bias")}


def rows(name):
    return [line.split("\t") for line in gzip.open(REFERENCE / name, "rt").read().splitlines()]


@pytest.fixture(scope="module")
def listings():
    """{size: {name in the original: shape}} of backbones ("backbone.") and classifiers ("classifier.")."""
    found = {}
    for name, sides in rows("convnext_state_dict.txt.gz"):
        size, name = name.split(".", 1)
        found.setdefault(size, {})[name] = tuple(map(int, sides.split(",")))
    return found


def of(part, listing):
    return {name: shape for name, shape in listing.items() if name.startswith(f"{part}.")}


def make_network():
    """Returns the parts of an HTC that the tables of names read, with a toy backbone."""
    backbone = ConvNeXt(channels=8, depths=(2, 1, 3, 1))
    backbone(tf.zeros([1, 32, 32, 3]))
    return SimpleNamespace(backbone=backbone, built=True, variables=backbone.variables)


def drawn(network):
    shapes = {name: array.shape for name, array in mmdet_arrays(network).items()}
    return DRAWN["state_dict"](shapes)


@pytest.mark.parametrize("letter", ["t", *slow("s", "b", "l", "xl")])
@tf.autograph.experimental.do_not_convert  # which takes half a minute
def test_names_shapes_and_rates_at_full_size(letter, listings):
    """In a graph, where variables have no values; learning rates are those of the original's optimizer."""
    file = next(file for file in FILES if f"_convnext_{letter}_" in file)
    experiment, _ = config.load([f"gin/convnext/{file}.gin"], [])
    with tf.Graph().as_default():
        model = experiment.build_model()
        model.neck(model.backbone(tf.zeros([1, 64, 64, 3])))
        model.built = True  # in part
        table = entries(model)
    size = SIZES[letter]
    found = {entry.name: entry.their_shape(model) for entry in table}
    wanted = of("backbone", listings[size])
    for level, channels in enumerate(wanted[f"backbone.norm{stage}.weight"][0] for stage in range(4)):
        convolutions = {"lateral_convs": (channels, 1), "fpn_convs": (256, 3)}
        for kind, (inputs, side) in convolutions.items():
            wanted[f"neck.{kind}.{level}.conv.weight"] = (256, inputs, side, side)
            wanted[f"neck.{kind}.{level}.conv.bias"] = (256,)
    assert found == wanted and len(table) == len(model.variables)

    blocks = "tiny" if size == "tiny" else "small"
    original = {name: row for name, *row in rows("convnext_rates.txt.gz") if name.startswith(blocks)}
    groups = experiment.optimizer.groups
    groups.resolve([entry.variable for entry in table])
    rate = groups.groups[1][1] ** (1 / (7 if size == "tiny" else 13))  # of the stem
    for entry, (own, decay) in zip(table, groups.multipliers, strict=True):
        if entry.name.startswith("backbone."):
            expected, decays = map(float, original[f"{blocks}.{entry.name}"])
            steps = round(np.log(expected) / np.log(0.7))
            assert (own, decay) == (pytest.approx(rate**steps), decays), entry.name
        else:
            assert own == 1


def test_the_rates_of_the_configurations():
    """Learning rate, decay of the rate by layer, drop path: the numbers of the original's configurations."""
    found = {}
    for file in FILES:
        experiment, _ = config.load([f"gin/convnext/{file}.gin"], [])
        backbone, optimizer = experiment.build_model().backbone, experiment.optimizer
        last = optimizer.groups.groups[-1][1]
        paths = max(block.drop_path for blocks in backbone.stages for block in blocks)
        found[file.replace("_rcnn_convnext", "").replace("_fpn_3x", "").removesuffix("_coco")] = (
            optimizer.schedule.peak,
            last,
            pytest.approx(paths),
            experiment.backbone_weights,
        )
    assert found == {
        "cascade_mask_t": (2e-4, 0.7, 0.4, "convnext_tiny_1k_224"),
        "cascade_mask_s": (2e-4, 0.7, 0.6, "convnext_small_1k_224"),
        "cascade_mask_b": (2e-4, 0.8, 0.7, "convnext_base_1k_224"),
        "cascade_mask_b_22k": (1e-4, 0.8, 0.6, "convnext_base_22k_224"),
        "cascade_mask_l_22k": (1e-4, 0.7, 0.7, "convnext_large_22k_224"),
        "cascade_mask_xl_22k": (1e-4, 0.7, 0.8, "convnext_xlarge_22k_224"),
        "mask_t": (1e-4, 0.95, 0.4, "convnext_tiny_1k_224"),
    }


@pytest.mark.parametrize("size", SIZES.values())
def test_a_classifier_has_all_but_the_output_norms(size, listings):
    arrays = {
        name.removeprefix("classifier."): np.empty(shape, bool)
        for name, shape in of("classifier", listings[size]).items()
    }
    found, _ = from_convnext(arrays, "x.pth")
    wanted = of("backbone", listings[size])
    assert {name: array.shape for name, array in found.items()} == {
        name: shape for name, shape in wanted.items() if name not in OUTPUT_NORMS
    }
    assert len(wanted) - len(found) == len(OUTPUT_NORMS)


def test_round_trip():
    network = make_network()
    arrays = drawn(network)
    assert load_mmdet(network, arrays) == Unmatched([], [], []) and not paddle_arrays(network, partial=True)
    back = mmdet_arrays(network)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    # Depthwise kernels are [C, 1, y, x] there and [y, x, 1, C] here.
    kernel = arrays["backbone.stages.2.1.dwconv.weight"]
    assert network.backbone.stages[2][1].depthwise.kernel[2, 5, 0, 9] == kernel[9, 0, 2, 5]


def test_a_classifier_initializes_the_backbone(write, tmp_path):
    network, path = make_network(), tmp_path / "convnext.pth"
    arrays = {name: array for name, array in drawn(network).items() if name not in OUTPUT_NORMS}
    weights = {name.removeprefix("backbone."): array for name, array in arrays.items()}
    classifier = {"norm.weight": np.ones(64, "f4"), "norm.bias": np.ones(64, "f4"), "head.bias": np.ones(5, "f4")}
    write.pytorch_zip(path, {"model": weights | classifier})
    assert load_backbone(path, network) == str(path)
    found = mmdet_arrays(network)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    np.testing.assert_array_equal(found["backbone.norm3.weight"], np.ones(64))

    weights["stages.3.0.grn.gamma"] = weights.pop("stages.3.0.gamma")  # as in a ConvNeXt V2
    write.pytorch_zip(path, {"model": weights | classifier})
    with pytest.raises(UserError, match=r"does not fit ConvNeXt.*stages\.3\.0\.gamma.*stages\.3\.0\.grn\.gamma"):
        load_backbone(path, make_network())
    with pytest.raises(UserError, match=r"not a ConvNeXt of its authors: it lacks downsample_layers\.0\.0"):
        from_convnext({"conv1.weight": np.zeros([4, 3, 7, 7])}, "resnet.pth")


def test_a_detector_of_mmdetection_has_the_names_of_mmpretrain(write, tmp_path):
    network, path = make_network(), tmp_path / "x.pth"
    arrays = drawn(network)
    renamed = {
        name.replace("dwconv", "depthwise_conv").replace("pwconv", "pointwise_conv"): array
        for name, array in arrays.items()
    }
    assert "backbone.stages.0.0.pointwise_conv2.bias" in renamed
    write.pytorch_zip(path, {"state_dict": {**renamed, "rpn_head.rpn_cls.bias": np.ones(3, "f4")}})
    weights = read_weights(path)
    assert weights.source == "mmdet"
    assert weights.arrays.keys() == {*arrays, "rpn_head.rpn_cls.bias"}
