"""The tables from other frameworks' names to our variables, on a small model; tests/reference lists R50's names."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.models.backbones.resnet import ResNet
from htc_tf.models.box_head import BoxHead
from htc_tf.models.fpn import FPN
from htc_tf.models.htc import HTC
from htc_tf.models.mask_head import MaskHead
from htc_tf.models.postprocess import Postprocess
from htc_tf.models.recursive_fpn import RecursiveFPN
from htc_tf.models.roi_pooler import RoIPooler
from htc_tf.models.rpn import RPN
from htc_tf.models.semantic_head import SemanticHead
from htc_tf.models.stage import Stage
from htc_tf.weights import Unmatched, entries, load_mmdet, load_paddle, mmdet_arrays, paddle_arrays
from htc_tf.weights.assign import Entry, NamedWeights
from htc_tf.weights.layouts import TABLE
from htc_tf.weights.names import Framework, Index

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
# The demo's network has norms that mmdetection's lacks.
PLAIN = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]


def make_model(depth=18, norm=None, neck=None, with_images=False, **switches):
    model = HTC(
        backbone=ResNet(depth, width=4, with_images=with_images),
        neck=neck or FPN(16, norm=norm),
        rpn=RPN(8, inference_proposals=4),
        roi_pooler=RoIPooler(),
        stages=[Stage(BoxHead(3, 16), MaskHead(3, 16, num_convs=2)) for _ in range(2)],
        postprocess=Postprocess(keep=2),
        semantic_head=SemanticHead(5, 16, num_convs=1),
        num_stages=2,
        **switches,
    )
    model.build_variables()
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def numbered(shapes):
    """Returns arrays of the given shapes with distinct values."""
    arrays, count = {}, 0
    for name, array in shapes.items():
        if array.ndim:
            arrays[name] = np.arange(count, count + array.size, dtype=np.float32).reshape(array.shape)
            count += array.size
    return arrays


@pytest.fixture
def arrays(model):
    """Weights of the model under mmdetection's names."""
    return numbered(mmdet_arrays(model))


def test_round_trip_covers_every_variable(model, arrays):
    assert len(entries(model)) == len(model.variables)
    assert load_mmdet(model, arrays) == Unmatched([], [], [])
    back = mmdet_arrays(model)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    assert {name.rsplit(".", 1)[-1] for name in back.keys() - arrays.keys()} == {"num_batches_tracked"}


def test_round_trip_of_paddle(model):
    arrays = numbered(paddle_arrays(model))
    assert len(entries(model, Framework.PADDLE)) == len(arrays) == len(model.variables)
    assert load_paddle(model, arrays) == Unmatched([], [], [])
    back = paddle_arrays(model)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_matrices_of_paddle_are_transposed(model, arrays):
    load_mmdet(model, arrays)
    theirs = paddle_arrays(model)
    for name, same in (
        ("bbox_head.head.1.fc6.weight", "roi_head.bbox_head.1.shared_fcs.0.weight"),  # (channel, y, x) in both
        ("bbox_head.head.1.fc7.weight", "roi_head.bbox_head.1.shared_fcs.1.weight"),
        ("bbox_head.bbox_score_stage0.weight", "roi_head.bbox_head.0.fc_cls.weight"),
        ("bbox_head.bbox_delta_stage0.weight", "roi_head.bbox_head.0.fc_reg.weight"),
    ):
        np.testing.assert_array_equal(theirs[name], arrays[same].T)
    for name, same in (
        ("backbone.res4.res4b.branch2a.conv.weight", "backbone.layer3.1.conv1.weight"),
        ("backbone.res5.res5a.short.norm._variance", "backbone.layer4.0.downsample.1.running_var"),
        ("rpn_head.rpn_rois_delta.weight", "rpn_head.rpn_reg.weight"),
        ("bbox_head.mask_head.head.1.conv_res.conv.bias", "roi_head.mask_head.1.conv_res.conv.bias"),
        ("bbox_head.mask_head.head.0.upsample.weight", "roi_head.mask_head.0.upsample.weight"),
        ("fused_semantic_head.conv_embedding.weight", "roi_head.semantic_head.conv_embedding.conv.weight"),
    ):
        np.testing.assert_array_equal(theirs[name], arrays[same])


@pytest.mark.parametrize("framework", Framework)
def test_names_of_the_whole_network(tiny_model, framework):
    """All names of both state dicts; a narrow R50 has the same ones."""
    _, model = tiny_model("ResNet.depth=50", "MaskHead.num_convs=4", "SemanticHead.num_convs=4", *PLAIN)
    ours = (mmdet_arrays, paddle_arrays)[framework](model).keys()
    listing = REFERENCE / ("mmdet_state_dict.txt", "paddle_state_dict.txt")[framework]
    assert ours == {line.split()[0] for line in listing.read_text().splitlines() if not line.startswith("#")}


def test_placeholders():
    assert [f"{Index(i, 3)} {Index(i, 3):1} {Index(i, 3):2} {Index(i, 3):a}" for i in range(3)] == [
        "0 1 2 a",
        "1 2 3 b",
        "2 3 4 c",
    ]
    # Stages of up to ten blocks have letters: those of ResNet-50 and the first of deeper networks.
    assert f"{Index(9, 10):a}" == "j"
    assert [f"{Index(i, 23):a}" for i in (0, 1, 22)] == ["a", "b1", "b22"]


def test_layouts(model, arrays):
    load_mmdet(model, arrays)
    head = model.stages[1]
    # Convolution: [out, in, y, x].
    kernel = arrays["backbone.conv1.weight"]
    np.testing.assert_array_equal(model.backbone.stem.convolution.kernel[5, 2, 1, 3], kernel[3, 1, 5, 2])
    # Deconvolution: [in, out, y, x]; Keras has [y, x, out, in].
    kernel = arrays["roi_head.mask_head.1.upsample.weight"]
    np.testing.assert_array_equal(head.mask_head.upsample.kernel[1, 0, 6, 3], kernel[3, 6, 1, 0])
    # The first linear layer reads (channel, y, x) there and (y, x, channel) here.
    kernel = arrays["roi_head.bbox_head.1.shared_fcs.0.weight"]
    channel, y, x = 5, 3, 6
    ours = head.box_head.hidden[0].kernel[(y * 7 + x) * 16 + channel]
    np.testing.assert_array_equal(ours, kernel[:, (channel * 7 + y) * 7 + x])
    # dx, dy, dw, dh there; dy, dx, dh, dw here; in the RPN for each of three anchors.
    kernel, bias = (arrays[f"roi_head.bbox_head.1.fc_reg.{leaf}"] for leaf in ("weight", "bias"))
    np.testing.assert_array_equal(head.box_head.regressor.kernel, kernel[[1, 0, 3, 2]].T)
    np.testing.assert_array_equal(head.box_head.regressor.bias, bias[[1, 0, 3, 2]])
    swap = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]
    kernel, bias = (arrays[f"rpn_head.rpn_reg.{leaf}"] for leaf in ("weight", "bias"))
    np.testing.assert_array_equal(model.rpn.deltas.convolution.kernel[0, 0], kernel[swap, :, 0, 0].T)
    np.testing.assert_array_equal(model.rpn.deltas.convolution.bias, bias[swap])


def test_mismatches_are_returned_and_not_assigned(model, arrays):
    load_mmdet(model, arrays)
    changed = {name: array + 1 for name, array in arrays.items()}
    changed["neck.fpn_convs.0.conv.weigth"] = changed.pop("neck.fpn_convs.0.conv.weight")
    changed["rpn_head.rpn_cls.bias"] = np.zeros([1], np.float32)
    assert load_mmdet(model, changed) == Unmatched(
        missing=["neck.fpn_convs.0.conv.weight"],
        unexpected=["neck.fpn_convs.0.conv.weigth"],
        mismatched=["rpn_head.rpn_cls.bias: [3] here, [1] there"],
    )
    back = mmdet_arrays(model)
    for name in ("neck.fpn_convs.0.conv.weight", "rpn_head.rpn_cls.bias"):
        np.testing.assert_array_equal(back[name], arrays[name])
    np.testing.assert_array_equal(back["rpn_head.rpn_cls.weight"], changed["rpn_head.rpn_cls.weight"])


def test_arrays_as_a_source(model, arrays):
    """`find` changes the layout and takes another number of outputs; `mismatch` and `surplus` say what does not fit."""
    arrays["roi_head.bbox_head.0.fc_cls.weight"] = np.arange(6 * 16, dtype=np.float32).reshape(6, 16)
    arrays["rpn_head.rpn_cls.bias"] = np.zeros([1], np.float32)
    del arrays["neck.fpn_convs.0.conv.weight"]
    arrays |= {"backbone.layer5.0.conv1.weight": np.zeros([1]), "backbone.bn1.num_batches_tracked": np.zeros([])}
    source = NamedWeights("x.pth", model, arrays, Framework.MMDET, ["a", "b", "c", "d", "e"])
    classifier = model.stages[0].box_head.classifier
    assert source.find(classifier.kernel, classifier.kernel.shape) is None
    found = source.find(classifier.kernel, [16, 6])
    np.testing.assert_array_equal(found, arrays["roi_head.bbox_head.0.fc_cls.weight"].T)
    assert source.mismatch(classifier.kernel) == "roi_head.bbox_head.0.fc_cls.weight: [4, 16] here, [6, 16] there"
    assert source.mismatch(model.rpn.objectness.convolution.bias) == "rpn_head.rpn_cls.bias: [3] here, [1] there"
    kernel = model.neck.outputs["2"].convolution.kernel
    assert source.mismatch(kernel) == "it lacks neck.fpn_convs.0.conv.weight"
    assert source.find(kernel, kernel.shape) is None and source.mismatch(classifier.bias) is None
    assert source.surplus() == ["backbone.layer5.0.conv1.weight"]


def test_a_missing_layer_has_no_name():
    names = mmdet_arrays(make_model(masks=False, semantic=False))
    assert not [name for name in names if "mask_head" in name or "semantic_head" in name]
    assert "roi_head.bbox_head.1.fc_cls.weight" in names


def test_unread_names_are_not_unexpected(model, arrays):
    arrays["roi_head.mask_head.0.conv_res.conv.weight"] = np.zeros([16, 16, 1, 1])  # mmdetection 1 has it
    arrays["backbone.bn1.num_batches_tracked"] = np.zeros([], np.int64)
    arrays["roi_head.mask_head.1.conv_res.conv.weigth"] = np.zeros([1])
    assert load_mmdet(model, arrays).unexpected == ["roi_head.mask_head.1.conv_res.conv.weigth"]


def test_every_norm_of_the_demo_has_a_name(tiny_model):
    """All variables are written and read again: a network that is left with initial norms detects nothing."""
    _, model = tiny_model()
    arrays = mmdet_arrays(model)
    written = {id(entry.variable) for entry in entries(model)}
    assert not [variable.name for variable in model.variables if id(variable) not in written]
    norms = ("neck.lateral_convs.0.bn.weight", "neck.fpn_convs.3.bn.bias", "roi_head.bbox_head.2.fc_norms.1.weight")
    norms += ("roi_head.semantic_head.conv_embedding.bn.weight", "roi_head.semantic_head.convs.0.bn.bias")
    assert all(arrays[name].shape == (16,) for name in norms)
    assert load_mmdet(model, arrays) == Unmatched([], [], [])
    with pytest.raises(ValueError, match=r"PADDLE has no name for \d+ of .*norm/gamma.*: partial=True leaves them out"):
        paddle_arrays(model)


def test_every_norm_of_scnet_and_of_a_recursive_pyramid_has_a_name(tiny_scnet):
    """gin/options/from_scratch.gin gives them norms, which mmdetection's networks lack."""
    _, model = tiny_scnet("GlobalContextHead.norm='group'", *PLAIN[:2])
    names = mmdet_arrays(model)
    assert {
        f"roi_head.{head}.convs.0.bn{i}.weight" for head in ("mask_head", "glbctx_head") for i in (1, 2)
    } <= names.keys()
    assert load_mmdet(model, names) == Unmatched([], [], [])
    fpn = FPN(16, norm="group")
    neck = RecursiveFPN(fpn, ResNet(50, width=4, feedback=True, name="second"))
    model = make_model(depth=50, neck=neck, with_images=True, masks=False, semantic=False)
    names = mmdet_arrays(model)
    assert {"neck.lateral_convs.0.bn.weight", "neck.fpn_convs.3.bn.bias"} <= names.keys()
    assert load_mmdet(model, names) == Unmatched([], [], [])


def test_bottlenecks():
    names = mmdet_arrays(make_model(depth=50, masks=False, semantic=False))
    assert names["backbone.layer3.5.conv3.weight"].shape == (64, 16, 1, 1)
    assert names["backbone.layer1.0.downsample.0.weight"].shape == (16, 4, 1, 1)


def test_variables_without_a_name_are_missing():
    model = make_model(norm="group", masks=False, semantic=False)
    missing, unexpected, mismatched = load_paddle(model, paddle_arrays(model, partial=True))
    assert len(missing) == 16 and not unexpected and not mismatched


def test_a_model_without_variables_is_refused():
    with pytest.raises(ValueError, match="no variables"):
        entries(
            HTC(ResNet(18), FPN(), RPN(), RoIPooler(), [Stage(BoxHead(1), MaskHead(1))], Postprocess(), num_stages=1)
        )


def test_float64_and_other_types_become_float32(model, arrays):
    load_mmdet(model, {name: tf.constant(array).numpy().astype(np.float64) for name, array in arrays.items()})
    assert mmdet_arrays(model)["neck.fpn_convs.0.conv.weight"].dtype == np.float32


def test_a_number_that_the_arrays_lack_is_not_found():
    """An absent array has the shape [] for NumPy, and so has a variable that is a single number."""
    variable, weights = tf.Variable(1.0), NamedWeights.__new__(NamedWeights)
    weights.model, weights.entries = None, {id(variable): Entry("scale", variable, TABLE)}
    weights.arrays = {}
    assert weights.find(variable, ()) is None
    weights.arrays = {"scale": np.float32(2)}
    assert weights.find(variable, ()) == 2
