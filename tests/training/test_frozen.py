"""Frozen parts: found in the model, printed before step 1, and refused without trained weights."""

import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.checkpoint import Checkpoints
from htc_tf.errors import UserError
from htc_tf.models.backbones.composite import Composite
from htc_tf.models.backbones.resnet import ResNet
from htc_tf.models.fpn import FPN
from htc_tf.models.recursive_fpn import RecursiveFPN
from htc_tf.run import Run
from htc_tf.training.first_weights import initialize
from htc_tf.training.frozen import check_frozen, describe_start, find_frozen, inspect_part

PAPER = ["gin/htc_r50_fpn_1x_coco.gin"]
FROZEN = ["ResNet.norm='frozen_batch'", "ResNet.frozen_stages=2"]


@pytest.fixture
def tiny(reset_model):
    """tiny(*params) returns a small model of one stage, with variables."""
    return lambda *params: reset_model("NUM_STAGES=1", "Postprocess.keep=2", *params)


def test_trained_parts_are_not_frozen(tiny):
    model = tiny()
    assert find_frozen(model) == [] and describe_start(model, None, 0).endswith("drawn by --seed; nothing is frozen")
    check_frozen(model)


def test_a_frozen_backbone(tiny):
    model = tiny(*FROZEN)
    (frozen,) = find_frozen(model)
    assert frozen.layers == ("backbone/stem", "backbone/stage1", "backbone/stage2")
    assert frozen.norms == 1 + 4 * 2 + 3 == sum("moving_mean" in v.name for v in model.variables)
    with pytest.raises(UserError) as refused:
        check_frozen(model, backbone="resnet50")
    message = str(refused.value)
    for words in ("backbone/stage2 (ResNet.frozen_stages)", "12 batch norms in the backbone (ResNet.norm)"):
        assert words in message
    for words in ("--backbone_weights resnet50", "--init_from SOURCE", "gin/options/from_scratch.gin"):
        assert words in message
    check_frozen(model, map(id, model.backbone.weights))
    assert "resuming from x; frozen: weights of backbone/stem" in describe_start(model, "x", 7)


def test_the_backbones_of_a_composite_and_of_a_recursive_neck():
    composite = Composite(ResNet(10, 8, name="assistant"), ResNet(10, 8, frozen_stages=2, name="lead"), "frozen_batch")
    neck = RecursiveFPN(FPN(4), ResNet(width=8, feedback=True), 1)
    with tf.name_scope("htc/"):
        images = tf.zeros([1, 32, 32, 3])
        composite(images)
        neck({0: images, **{level: tf.zeros([1, 32 >> level, 32 >> level, 8 << level]) for level in (2, 3, 4, 5)}})
    first, second = inspect_part("backbone", composite), inspect_part("neck", neck)
    assert first.layers == ("backbone/assistant/stem", "backbone/assistant/stage1", "backbone/lead/stage2")
    assert "stage2 (ResNet.frozen_stages)" in str(first) and "(Composite.norm, ResNet.norm)" in str(first)
    assert second.layers == ("neck/backbone/stem", "neck/backbone/stage1")
    assert "neck/backbone/stage1 (ResNet.frozen_stages)" in str(second) and "in the neck (ResNet.norm)" in str(second)


@pytest.mark.parametrize(
    "param, part",
    [
        ("FPN.norm='frozen_batch'", "in the neck (FPN.norm)"),
        ("MaskHead.norm='constant_batch'", "in the stage 1 mask head (MaskHead.norm)"),
        ("SemanticHead.norm='frozen_batch'", "in the semantic head (SemanticHead.norm)"),
    ],
)
def test_frozen_norms_elsewhere_need_more_than_a_backbone(tiny, param, part):
    model = tiny(param)
    with pytest.raises(UserError) as refused:
        check_frozen(model, map(id, model.backbone.weights))
    assert part in str(refused.value) and "--backbone_weights" not in str(refused.value)


def test_an_unused_part_is_not_frozen(tiny):
    assert find_frozen(tiny("MaskHead.norm='frozen_batch'", "MASKS=False")) == []


def test_a_keras_cv_backbone():
    params = ["ResNetV2Backbone.stackwise_filters=[4, 4, 4, 4]", "ResNetV2Backbone.stackwise_blocks=[2, 2, 2, 2]"]
    params += ["KerasCVBackbone.load_weights=False", "NUM_CLASSES=2"]
    params += ["IMAGE_MIN_SIDE=32", "IMAGE_MAX_SIDE=32", "Postprocess.keep=2", "RPN.inference_proposals=4"]
    experiment, _ = config.load(["tests/tiny.gin", "gin/options/keras_cv_backbone.gin"], params)
    experiment.prepare_runtime(0)
    model = experiment.build_model()
    model.build_variables()
    (frozen,) = find_frozen(model)
    assert (
        frozen.norms > 20 and "KerasCVBackbone.norm" in str(frozen) and "KerasCVBackbone.frozen_stages" in str(frozen)
    )


def test_first_weights(tiny, tmp_path):
    """Frozen parts with initial values are refused; from another run they have trained weights."""
    model = tiny(*FROZEN)
    checkpoints = Checkpoints(Run(tmp_path / "run"), model)
    with pytest.raises(UserError, match="would keep initial values"):
        initialize(checkpoints, model)
    other = Run(tmp_path / "other")
    other.create("", [])
    Checkpoints(other, model).save(0)
    assert initialize(checkpoints, model, init_from=other).endswith("other/checkpoints/ckpt-0")


def test_from_scratch_freezes_nothing():
    """The option, applied to the paper's network; fast, since no variable is created."""
    for files, frozen in ((PAPER, True), ([*PAPER, "gin/options/from_scratch.gin"], False)):
        model = config.load(files, [])[0].build_model()
        assert any(not layer.trainable for layer in model.backbone.submodules if hasattr(layer, "trainable")) is frozen
        assert bool(find_norms(model)) is frozen


def find_norms(model):
    from htc_tf.models.norms import FrozenBatchNormalization

    return [layer for layer in model.submodules if isinstance(layer, FrozenBatchNormalization)]
