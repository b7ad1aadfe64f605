"""Ranges of gin parameters: every parameter has one, and nonsense is refused before anything is built."""

import inspect
import math

import gin
import pytest

from htc_tf import config, gin_errors
from htc_tf.errors import UserError
from htc_tf.models.backbones.keras_cv import NETWORKS
from htc_tf.models.mask_head import MaskHead
from htc_tf.ranges import FLAG, Each, check_range, check_ranges, choice, number, optional, whole

config.import_gin()
PARTS = {
    name: part.wrapped
    for name, part in gin.config._REGISTRY.items()
    if getattr(part.wrapped, "__module__", "").startswith("htc_tf.")
}
# Neither numbers, flags nor choices: references, which gin resolves, and values that their class checks itself.
OTHERS = {
    "Experiment": {"build_model", "objective", "train_input", "eval_input", "optimizer", "keep_best"}
    | {"backbone_weights"},  # checked as a macro
    "HTC": {
        "backbone",
        "neck",
        "rpn",
        "roi_pooler",
        "stages",
        "postprocess",
        "semantic_head",
        "context_head",
        "relay",
        "roi_sampler",
        "test_time",
    },
    "Stage": {"box_head", "mask_head", "roi_sampler"},
    "RecursiveFPN": {"fpn", "backbone"},
    "Composite": {"assistant", "lead"},
    "HTCLoss": {"anchor_sampler", "rpn_class_loss", "class_loss", "box_loss", "mask_loss"},
    "AnchorSampler": {"choose"},
    "RoISampler": {"choose"},
    "Input": {"augment", "resize", "color_jitter", "paste", "balance"},
    "learning_rate": {"schedule"},
    "SGD": {"schedule", "groups"},  # ParameterGroups checks each triple of `groups`
    "AdamW": {"schedule", "groups"},
    "layer_decay": {"layers", "others", "within"},  # become such triples, or a pattern that is checked with them
    "SGDW": {"schedule", "groups"},
    "LAMB": {"schedule", "groups"},
    "KerasCVBackbone": {"network", "preset"},  # a preset is checked where keras-cv is imported
    **{name: {"arguments"} for name in NETWORKS},  # checked by keras-cv
}
EVERYWHERE = {"self", "name", "sample", "row", "source", "seed"}
NEEDED = {"batch_size": 1, "steps": 1, "base": 0.1, "num_classes": 2, "num_labels": 2, "min_side": 8, "max_side": 8}
NEEDED |= {"max_objects": 1, "preset": "resnet50", "min_sides": [8], "lowest": 8, "highest": 8}
NONSENSE = [
    math.inf,
    -math.inf,
    math.nan,
    "0.5",
    -(10**12),
    10**400,
    1j,
    {},
    [[]],
    b"1",
    (math.nan,) * 4,
    ("1",) * 3,
]


def parameters(part):
    function = part.__init__ if inspect.isclass(part) else part
    return [name for name in inspect.signature(function).parameters if name not in EVERYWHERE]


def call(part, **given):
    function = part.__init__ if inspect.isclass(part) else part
    wanted = {
        name: NEEDED.get(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and name != "self"
    }
    return part(**{**wanted, **given})


def test_all_modules_are_registered():
    assert {"Experiment", "Input", "SGD", "StepSchedule", "RPN", "ResNet", "Swin", "flip"} <= {
        p.split(".")[-1] for p in PARTS
    }


@pytest.mark.parametrize("part", PARTS.values(), ids=[name.split(".")[-1] for name in PARTS])
def test_every_parameter_has_a_range(part):
    """A new parameter needs a range, or a line in OTHERS with a reason."""
    ranges = getattr(part, "__ranges__", {})
    assert set(parameters(part)) == ranges.keys() | OTHERS.get(part.__name__, set())
    for name, allowed in ranges.items():
        for value in NONSENSE:
            with pytest.raises(UserError) as refused:
                call(part, **{name: value})
            message = gin_errors.shorten(refused.value)
            assert message.startswith(f"{part.__name__}.{name} = ") and len(message) < 300 and "\n" not in message
            assert str(allowed) in message
        if not allowed.allows(True):
            with pytest.raises(UserError, match=rf"{part.__name__}\.{name} = "):
                call(part, **{name: True})
        default = inspect.signature(part).parameters[name].default
        assert default is inspect.Parameter.empty or allowed.allows(default)


@pytest.mark.parametrize(
    "param, named",
    [
        ("Experiment.clip_norm=0", "Experiment.clip_norm = 0: must be a number, more than 0, or None"),
        ("Experiment.clip_norm=-1", "Experiment.clip_norm = -1"),
        ("Experiment.clip_norm=1e999", "Experiment.clip_norm = inf"),
        ("BASE_LEARNING_RATE=1e999", "BASE_LEARNING_RATE = inf"),
        ("BASE_LEARNING_RATE=0", "BASE_LEARNING_RATE = 0"),
        ("SGD.momentum=1.0", "SGD.momentum = 1.0"),
        ("SGD.groups=(('backbone', -1.0, 1.0),)", "SGD.groups"),
        ("SGD.groups=(('backbone', 1e999, 1.0),)", "SGD.groups"),
        ("StepSchedule.milestones=(8, 11)", "StepSchedule.milestones = (8, 11)"),
        ("StepSchedule.milestones=0.5", "StepSchedule.milestones = 0.5"),
        ("MASKS='False'", "MASKS = 'False'"),
        ("TestTimeAugmentation.scales=[" + "1.0," * 33 + "]", "a list of 1 to 32 items, each a number, more than 0"),
        ("RPN.nms='nonsense'", "RPN.nms = 'nonsense'"),
        ("Postprocess.nms='nonsense'", "Postprocess.nms = 'nonsense'"),
        ("ResNet.frozen_stages=9", "ResNet.frozen_stages = 9"),
        ("stage2/Stage.iou_threshold=50", "Stage.iou_threshold = 50"),
        ("flip.probability=50", "flip.probability = 50"),
        ("flip.probability=1e999", "flip.probability = inf"),
        ("AnchorSampler.negative_iou=0.8", "AnchorSampler.negative_iou = 0.8"),
        ("RoISampler.limit=3", "RoISampler.positive_fraction = 0.25"),
        ("FPN.channels=1e3", "FPN.channels = 1000.0"),
        ("STEPS=10000000000", "STEPS = 10000000000: must be a whole number, at least 0, at most 1000000000"),
        ("HTC.backbone=@ResNet", "HTC.backbone = @ResNet is a class: add () for an instance, @ResNet()"),
        ("HTC.stages=[@stage1/Stage(), @Stage]", "HTC.stages = @Stage is a class: add ()"),
        ("Experiment.optimizer=@AdamW", "Experiment.optimizer = @AdamW is a class: add ()"),
        ("learning_rate.schedule=@StepSchedule", "learning_rate.schedule = @StepSchedule is a class"),
    ],
)
def test_a_configuration_out_of_range_is_named(param, named):
    with pytest.raises(UserError) as refused:
        config.load(["gin/htc_r50_fpn_1x_coco.gin"], ["HTC.test_time = @TestTimeAugmentation()", param])
    assert named in str(refused.value)


def test_a_mask_head_has_no_norm_over_its_rows():
    """It also processes rows that pad a batch."""
    for norm in ("batch", "sync_batch"):
        with pytest.raises(UserError, match=rf"^MaskHead\.norm = '{norm}': must be one of None, 'frozen_batch', "):
            MaskHead(2, norm=norm)


def test_ranges():
    assert Each(number(0, 1)).allows([0] * 1000) and not Each(number(0, 1)).allows([0] * 1001)
    assert Each(number(0, 1), maximum=2).allows([0, 0]) and not Each(number(0, 1), maximum=2).allows([0] * 3)
    assert number(0, below=1).allows(0) and not number(0, below=1).allows(1)
    assert not number(above=0).allows(0) and whole(-1, 4).allows(-1)
    assert optional(whole(1)).allows(None) and not whole(1).allows(None)
    assert FLAG.allows(False) and not FLAG.allows(0) and not choice(1, 2).allows(True)
    assert Each(number(0, 1)).allows([0.5]) and not Each(number(0, 1)).allows([])
    assert Each(number(0, 1), minimum=0).allows(()) and not Each(whole(1), 4).allows((1, 1, 1))
    with pytest.raises(
        UserError, match=r"A\.b = '1{79}…: must be a whole number, at least 1, at most 1000000000, or None$"
    ):
        check_range("A.b", "1" * 1000, optional(whole(1)))


def test_a_subclass_is_checked_under_its_own_name():
    @check_ranges(base=number(above=0))
    class Schedule:
        def __init__(self, base):
            self.base = base

    class Mine(Schedule):
        def __init__(self, power, base=1.0):
            super().__init__(base)

    with pytest.raises(UserError, match=r"^Mine\.base = -1"):
        Mine(2, -1)
    with pytest.raises(TypeError, match="missing 1 required"):
        Schedule()
    with pytest.raises(TypeError, match=r"no parameters.*'bass'"):
        check_ranges(bass=FLAG)(Mine)
