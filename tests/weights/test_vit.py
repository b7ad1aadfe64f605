"""ViTDet's gin files: names against detectron2's state dicts, heads on its weights, and MAE's ViT as first weights."""

import gzip
import runpy
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.training.first_weights import load_backbone
from htc_tf.weights import Unmatched, entries, load_mmdet, mmdet_arrays
from htc_tf.weights.detectron2_names import from_detectron2, to_detectron2
from htc_tf.weights.sources import read_weights
from tests.slow import slow

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
DRAWN = runpy.run_path(str(REFERENCE / "drawn_weights.py"))
CASCADE = "cascade_mask_rcnn_vitdet_b_100ep"
LISTED = (CASCADE, *slow("cascade_mask_rcnn_vitdet_l_100ep", "mask_rcnn_vitdet_b_100ep"))
TOY = (
    *("NUM_CLASSES=5", "STEPS=1", "ViT.channels=16", "ViT.depth=4", "ViT.heads=2", "ViT.window=3"),
    *("ViT.global_blocks=(2, 4)", "ViT.image_side=64", "ViT.pretrained_side=48", "SimpleFPN.channels=8"),
    *("RPN.channels=8", "BoxHead.channels=16", "BoxHead.num_convs=2", "BoxHead.conv_channels=8"),
    *("MaskHead.channels=8", "MaskHead.num_convs=2", "layer_decay.layers=('backbone/',)"),
    *("RPN.training_proposals=20", "RPN.inference_proposals=20"),
)
SWAP = [1, 0, 3, 2]  # between (x, y, ...) there and (y, x, ...) here


def make_model(name, *params):
    return config.load([f"gin/vitdet/{name}_coco.gin"], ["NUM_CLASSES=80", "STEPS=1", *params])[0].build_model()


def toy_shapes(model):
    """Returns {detectron2's name: shape} of a model."""
    return {name: array.shape for name, array in to_detectron2(mmdet_arrays(model)).items()}


@pytest.fixture(scope="module")
def toy():
    """The cascade of the reference arrays."""
    model = make_model(CASCADE, *TOY)
    model.build_variables()
    renamed, notes = from_detectron2(DRAWN["state_dict"](toy_shapes(model)), "toy.pkl")
    assert load_mmdet(model, renamed) == Unmatched([], [], []) and not notes
    return model


@tf.autograph.experimental.do_not_convert  # which takes half a minute
def find_shapes(name):
    """Returns {name in the tables: shape there} of a model at full size."""
    with tf.Graph().as_default():  # in which variables take no memory
        model = make_model(name)
        pyramid = model.neck(model.backbone(tf.zeros([1, 32, 32, 3])))
        for layer in (*model.rpn.convs, model.rpn.objectness, model.rpn.deltas):
            layer(pyramid[5])
        for stage in model.stages:
            stage.box_head(tf.zeros([1, 7, 7, 256]))
        for head in model.mask_heads:
            head(head.extract_features(tf.zeros([1, 14, 14, 256])))
        model.built = True
        found = {entry.name: entry.their_shape(model) for entry in entries(model)}
        assert len(found) == len(model.variables)
    return found


@pytest.mark.parametrize("name", LISTED)
def test_names_and_shapes_at_full_size(name):
    with gzip.open(REFERENCE / f"{name}_state_dict.txt.gz", "rt") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    listing = {name: tuple(map(int, sides.split(","))) for name, sides in rows}
    found = find_shapes(name)
    arrays = {name: np.empty(shape, bool) for name, shape in listing.items()}
    assert {name: array.shape for name, array in from_detectron2(arrays, "")[0].items()} == found
    back = to_detectron2({name: np.empty(shape, bool) for name, shape in found.items()})
    assert {name: array.shape for name, array in back.items()} == listing


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


def test_pyramid_and_rpn(toy, reference):
    """The RPN's two convolutions are shared by all levels; here on P4 (4 x 6 cells) and P6 (1 x 2)."""
    expected = reference("vit")
    pyramid = toy.neck(toy.backbone(tf.constant(DRAWN["images"]())))
    for level in (4, 6):
        close(pyramid[level], expected[f"p{level}"])
    found = toy.rpn({level: pyramid[level] for level in (4, 6)}, tf.constant(2 * [[64.0, 96.0]]), False)
    logits = [expected[f"rpn_{name}"].reshape(2, -1) for name in ("p4", "p6")]
    deltas = [expected[f"rpn_deltas_{name}"].reshape(2, -1, 4)[..., SWAP] for name in ("p4", "p6")]
    close(found.logits, np.concatenate(logits, 1))
    close(found.deltas, np.concatenate(deltas, 1))


@pytest.mark.parametrize("compiled", [False, True])
def test_heads_with_norms_over_channels(compiled, toy, reference):
    """The second stage's box head, and the only mask head, which belongs to the first stage."""
    expected = reference("vit")
    boxes, masks = (tf.constant(DRAWN["parameter"]("rois", (3, side, side, 8))) for side in (7, 14))
    head = toy.stages[1].box_head
    logits, deltas = tf.function(head, jit_compile=compiled, autograph=False)(boxes)
    close(logits, expected["classes"])
    close(deltas, expected["deltas"][:, SWAP])
    assert [stage.mask_head is None for stage in toy.stages] == [False, True, True]
    close(toy.mask_heads[0](toy.mask_heads[0].extract_features(masks)), expected["masks"])


def mae_arrays(model):
    """Returns what MAE's file of the toy's encoder holds."""
    prefix = "backbone.net."
    shapes = {name.removeprefix(prefix): shape for name, shape in toy_shapes(model).items() if prefix in name}
    shapes = {name: shape for name, shape in shapes.items() if "rel_pos" not in name}
    return DRAWN["state_dict"](shapes | {"cls_token": (1, 1, 16), "norm.weight": (16,), "norm.bias": (16,)})


def test_an_encoder_of_mae_initializes_the_backbone(write, tmp_path):
    model, path = make_model(CASCADE, *TOY), tmp_path / "mae.pth"
    model.build_variables()
    arrays = mae_arrays(model)
    write.pytorch_zip(path, {"model": arrays})
    assert read_weights(path).source == "vit"
    neck = model.neck.reductions[0].convolution.kernel.numpy()
    assert load_backbone(path, model) == str(path)
    found = mmdet_arrays(model)
    np.testing.assert_array_equal(found["backbone.net.blocks.3.mlp.fc1.weight"], arrays["blocks.3.mlp.fc1.weight"])
    np.testing.assert_array_equal(found["backbone.net.pos_embed"][:, 1:], arrays["pos_embed"][:, 1:])
    assert not found["backbone.net.pos_embed"][:, 0].any()  # of the classifier's token, unused
    assert not found["backbone.net.blocks.1.attn.rel_pos_h"].any()
    np.testing.assert_array_equal(model.neck.reductions[0].convolution.kernel, neck)
    write.pytorch_zip(path, {"model": {name: array for name, array in arrays.items() if "blocks.3." not in name}})
    with pytest.raises(UserError, match=r"does not fit ViT as configured: it lacks backbone\.net\.blocks\.3\.norm1"):
        load_backbone(path, model)


@pytest.mark.parametrize(("size", "blocks", "rate"), [("b", 12, 0.7), ("l", 24, 0.8)])
def test_learning_rates_by_layer(size, blocks, rate):
    """As detectron2's get_vit_lr_decay_rate and get_default_optimizer_params with the configuration's arguments."""
    small = ("NUM_CLASSES=80", "STEPS=1", "ViT.channels=16", "ViT.heads=2", "SimpleFPN.channels=8")
    experiment, _ = config.load([f"gin/vitdet/mask_rcnn_vitdet_{size}_100ep_coco.gin"], small)
    model = experiment.build_model()
    model.neck(model.backbone(tf.zeros([1, 32, 32, 3])))
    model.built = True
    found = entries(model)
    groups = experiment.optimizer.groups
    groups.resolve([entry.variable for entry in found])
    for entry, (learning, decay) in zip(found, groups.multipliers, strict=True):
        layer, own = blocks + 1, entry.name.removeprefix("backbone.net.")
        if own.startswith(("pos_embed", "patch_embed")):
            layer = 0
        elif own.startswith("blocks."):
            layer = int(own.split(".")[1]) + 1
        assert learning == pytest.approx(rate ** (blocks + 1 - layer)), entry.name
        # LayerNorm of PyTorch alone is exempt, not detectron2's own of the neck.
        assert decay == (0 if own == "pos_embed" or (own.startswith("blocks.") and ".norm" in own) else 1), entry.name
