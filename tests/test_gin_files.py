"""The gin files: each builds, and the numbers are those of the paper and of mmdetection."""

import ast
import functools
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from htc_tf import config
from htc_tf.data.datasets import INFO_FILE
from htc_tf.models.backbones import resnet
from htc_tf.models.htc import PIXEL_STD
from htc_tf.ranges import MAX_WHOLE
from htc_tf.weights.public_weights import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
PAPER = "gin/htc_r50_fpn_1x_coco.gin"
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin").rglob("*.gin"))
EXPERIMENTS = [name for name in FILES if name.split("/")[1] not in ("base", "options")] + ["tests/tiny.gin"]
DRAWN = ("gin/htc_shapes.gin", "tests/tiny.gin")  # for the shapes of `pipelines.shapes`, all others for COCO
OVERRIDES = [name for name in FILES if name.startswith("gin/options/")]


@pytest.fixture(scope="module")
def coco_records(tmp_path_factory):
    """A folder that says to hold train2017: 118,287 images, 80 classes, 183 semantic labels."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "shard").touch()
    content = {
        "version": 1,
        "categories": [{"id": number, "name": str(number)} for number in range(1, 81)],
        "stuff": {"present": True, "labels": 183},
        "masks": True,
        **{"images": 118287, "objects": 860001, "crowd": 10498},
        "shards": [{"file": "shard", "records": 118287, "bytes": 0, "sha256": ""}],
        **{"counters": {}, "options": {}, "inputs": {}},
    }
    (folder / INFO_FILE).write_text(json.dumps(content))
    return folder


def names(resolved):
    return {line.partition(" = ")[0] for line in resolved.splitlines()}


@functools.cache
def load(*files):
    """Returns the Experiment and the resolved text. Residual networks have one block a stage: more take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for depth in resnet.BLOCKS:
            patch.setitem(resnet.BLOCKS, depth, (1, 1, 1, 1))
        return config.load(list(files), [])


def resolved_paper():
    return load(PAPER)[1]


def test_gin_files_are_found():
    assert PAPER in EXPERIMENTS and len(EXPERIMENTS) >= 6 and OVERRIDES


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_configs_build_and_define_every_macro(name):
    experiment, resolved = load(name)
    assert config.MACROS.keys() <= names(resolved)
    assert experiment.num_classes == (8 if name in DRAWN else 80)


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides_build_on_the_configuration_of_the_paper(name):
    paper = resolved_paper()
    _, changed = load(PAPER, name)
    assert config.MACROS.keys() <= names(changed) and changed != paper
    # Bindings that disappear belong to a configurable that the override replaces.
    left_out = {re.sub(r".*/|\..*", "", name) for name in names(paper) - names(changed) if not name.startswith("#")}
    assert not [part for part in left_out if f"@{part}(" in changed or part.isupper()]


@pytest.mark.parametrize(
    ("name", "steps"), [("schedule_1x", 88716), ("schedule_cosine", 88716), ("schedule_3x", 266148)]
)
def test_schedules_build(name, steps, tmp_path, coco_records):
    parts = ["gin/base/model.gin", "gin/base/data.gin", f"gin/base/{name}.gin", "gin/base/runtime.gin"]
    path = tmp_path / "run.gin"
    path.write_text("".join(f"include '{part}'\n" for part in parts))
    experiment, resolved = config.load([str(path)], [], train_records=coco_records)
    assert config.MACROS.keys() <= names(resolved) and experiment.steps == steps
    assert experiment.optimizer.build().learning_rate.numpy() < 0.02  # the first step of the warm-up


def test_the_numbers_of_the_paper(coco_records):
    # Not cached: a model is built from the files loaded last.
    experiment, _ = config.load([PAPER], [], train_records=coco_records)
    model, objective = experiment.build_model(), experiment.objective
    assert (experiment.num_classes, experiment.batch_size, experiment.steps) == (80, 16, 88716)
    assert experiment.clip_norm is None and not experiment.xla and experiment.precision == "float32"
    assert [stage.iou_threshold for stage in model.stages] == [0.5, 0.6, 0.7]
    assert [stage.target_stds for stage in model.stages] == [
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    ]
    assert model.masks and model.interleaved and model.mask_info_flow and model.semantic_head is not None
    assert (objective.stage_weights, objective.semantic_weight) == ((1.0, 0.5, 0.25), 0.2)
    assert (objective.rpn_beta, objective.box_beta, objective.semantic_mean) == (1 / 9, 1.0, "all")
    sampler = objective.anchor_sampler
    assert (sampler.thresholds, sampler.limit, sampler.positive_fraction) == ((0.7, 0.3, 0.3), 256, 0.5)
    assert sampler.inside_only
    assert (model.roi_sampler.limit, model.roi_sampler.positive_fraction, model.roi_sampler.mask_limit) == (
        512,
        0.25,
        128,
    )
    assert model.rpn.proposals == {True: 2000, False: 1000} and model.rpn.nms_threshold == 0.7
    post = model.postprocess
    assert (post.score_threshold, post.nms_threshold, post.keep) == (0.001, 0.5, 100)
    assert (model.roi_pooler.sampling_ratio, model.roi_pooler.canonical_scale) == (0, 56.0)
    assert (experiment.train_input.min_side, experiment.train_input.max_side) == (800, 1333)
    schedule = experiment.optimizer.schedule
    assert (experiment.optimizer.momentum, experiment.optimizer.decay, schedule.peak) == (0.9, 1e-4, 0.02)


@pytest.mark.parametrize("name, masks, low_quality", [("mask_rcnn", True, True), ("faster_rcnn", False, False)])
def test_the_two_stage_detectors_match_mmdetection(name, masks, low_quality):
    """Source: configs/_base_/models/mask-rcnn_r50_fpn.py and faster-rcnn_r50_fpn.py of mmdetection."""
    experiment, _ = config.load([f"gin/{name}_r50_fpn_1x_coco.gin"], [])
    model, objective = experiment.build_model(), experiment.objective
    (stage,) = model.stages
    assert (stage.iou_threshold, stage.target_stds, stage.box_head.class_agnostic) == (0.5, (0.1, 0.1, 0.2, 0.2), False)
    assert model.masks is masks and model.semantic_head is None and model.roi_sampler.low_quality is low_quality
    assert (objective.stage_weights, objective.rpn_beta, objective.box_beta) == ((1.0,), 0.0, 0.0)
    assert model.rpn.proposals == {True: 2000, False: 1000} and model.rpn.kept[True] == 1000
    assert (model.postprocess.score_threshold, objective.anchor_sampler.inside_only) == (0.05, False)


@pytest.mark.parametrize("name, masks", [("cascade_mask_rcnn", True), ("cascade_rcnn", False)])
def test_the_cascades_match_mmdetection(name, masks):
    """Source: configs/_base_/models/cascade-mask-rcnn_r50_fpn.py and cascade-rcnn_r50_fpn.py of mmdetection."""
    experiment, _ = config.load([f"gin/{name}_r50_fpn_1x_coco.gin"], [])
    model, objective = experiment.build_model(), experiment.objective
    assert model.masks is masks and not model.interleaved and not model.mask_info_flow and model.semantic_head is None
    assert (len(model.stages), objective.stage_weights, objective.box_beta) == (3, (1.0, 0.5, 0.25), 1.0)
    assert all(stage.box_head.class_agnostic for stage in model.stages)
    assert not model.roi_sampler.low_quality and model.postprocess.score_threshold == 0.05
    assert model.average_masks and objective.anchor_sampler.inside_only


@pytest.mark.parametrize(
    ("name", "depth", "groups", "epochs"),
    [
        ("r50_fpn_1x", 50, 1, 12),
        ("r50_fpn_20e", 50, 1, 20),
        ("r101_fpn_20e", 101, 1, 20),
        ("x101_64x4d_fpn_20e", 101, 64, 20),
    ],
)
def test_scnet_matches_mmdetection(name, depth, groups, epochs, coco_records):
    """Source: configs/scnet of mmdetection 2."""
    experiment, _ = config.load([f"gin/scnet/scnet_{name}_coco.gin"], [], train_records=coco_records)
    model, objective = experiment.build_model(), experiment.objective
    assert len(model.backbone.stages[2]) == {50: 6, 101: 23}[depth]
    assert getattr(model.backbone.stages[0][0].body[1].convolution, "groups", 1) == groups
    assert [stage.mask_head is None for stage in model.stages] == [True, True, False]
    (head,) = model.mask_heads
    assert [len(part.convs) for part in (head, model.semantic_head, model.context_head)] == [6, 2, 2]  # blocks
    assert not model.interleaved and not model.mask_info_flow and model.relay.size == 7
    assert (objective.stage_weights, objective.mask_weights) == ((1.0, 0.5, 0.25), (1.75, 1.75, 1.75))
    assert (objective.semantic_weight, objective.context_weight, objective.semantic_mean) == (0.2, 3.0, "valid")
    assert model.roi_sampler.low_quality and model.postprocess.score_threshold == 0.001
    assert experiment.steps == epochs * 7393 and experiment.optimizer.schedule.peak == 0.02


@pytest.mark.parametrize(
    ("name", "channels", "blocks", "drop_path", "epochs"),
    [
        ("mask_rcnn_swin_t_fpn_1x", 96, 6, 0.1, 12),
        ("mask_rcnn_swin_t_fpn_3x", 96, 6, 0.2, 36),
        ("mask_rcnn_swin_s_fpn_3x", 96, 18, 0.2, 36),
        ("cascade_mask_rcnn_swin_t_fpn_1x", 96, 6, 0.0, 12),
        ("cascade_mask_rcnn_swin_t_fpn_3x", 96, 6, 0.2, 36),
        ("cascade_mask_rcnn_swin_s_fpn_3x", 96, 18, 0.2, 36),
        ("cascade_mask_rcnn_swin_b_fpn_3x", 128, 18, 0.3, 36),
    ],
)
def test_the_swin_detectors_match_their_authors(name, channels, blocks, drop_path, epochs, coco_records):
    """Source: configs/swin of SwinTransformer/Swin-Transformer-Object-Detection."""
    experiment, _ = config.load([f"gin/swin/{name}_coco.gin"], [], train_records=coco_records)
    model, optimizer = experiment.build_model(), experiment.optimizer
    swin = model.backbone
    assert swin.embed.filters == channels and [len(stage) for stage in swin.blocks] == [2, 2, blocks, 2]
    assert [stage[0].attention.heads for stage in swin.blocks] == [channels * 2**stage // 32 for stage in range(4)]
    assert swin.blocks[-1][-1].drop_path == pytest.approx(drop_path) and swin.window == 7
    assert all(layer.trainable for layer in (swin.embed, *swin.blocks[0]))
    assert experiment.steps == epochs * 7393
    rates = [float(optimizer.schedule(round(at * experiment.steps))) for at in (0.5, 0.8, 0.95)]
    assert rates == pytest.approx([1e-4, 1e-5, 1e-6])
    assert (optimizer.decay, optimizer.betas, experiment.clip_norm) == (0.05, (0.9, 0.999), None)
    sides = [(settings.min_side, settings.max_side) for settings in (experiment.train_input, experiment.eval_input)]
    assert sides == [(800, 1333)] * 2 and [f.__name__ for f in experiment.train_input.augment] == [
        *("flip", "random_crop", "multi_scale"),
    ]
    heads = [stage.box_head for stage in model.stages]
    cascade = name.startswith("cascade")
    assert len(heads) == (3 if cascade else 1) and not any(head.class_agnostic for head in heads)
    assert {(len(head.convs), len(head.hidden)) for head in heads} == {(4, 1) if cascade else (0, 2)}
    assert getattr(experiment.objective.box_loss, "weight", None) == (10.0 if cascade else None)


def test_the_swin_detectors_decay_what_their_authors_decay():
    """Backbone norms and position biases alone do not decay; biases, and the norms of the box heads, do."""
    experiment, _ = config.load(["gin/swin/cascade_mask_rcnn_swin_t_fpn_3x_coco.gin"], [])
    groups = experiment.optimizer.groups
    names = ["backbone/stage1_block1/norm1/gamma", "backbone/embed_norm/beta", "backbone/norm4/gamma"]
    names += ["backbone/stage3_block2/attention/relative_position_bias", "backbone/merging1/norm/beta"]
    decayed = ["backbone/stage1_block1/attention/qkv/bias", "box_head/conv1/norm/gamma", "neck/output2/conv/bias"]
    groups.resolve([SimpleNamespace(name=f"htc/{name}:0") for name in names + decayed])
    assert groups.multipliers == [(1.0, 0.0)] * 5 + [(1.0, 1.0)] * 3


def test_large_scale_jitter_for_100_epochs(coco_records):
    experiment, _ = config.load(["gin/htc_r50_fpn_lsj_100e_coco.gin"], [], train_records=coco_records)
    schedule = experiment.optimizer.schedule
    assert experiment.steps == 184900
    assert (schedule.peak, experiment.optimizer.decay) == (0.08, 4e-5)
    rates = [float(schedule(round(at * experiment.steps))) for at in (0.89, 0.91, 0.96, 0.98)]
    assert rates == pytest.approx([0.08, 0.008, 8e-4, 8e-5])


def test_multi_scale_training_evaluates_at_one_scale(coco_records):
    name = "gin/htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco.gin"
    experiment, _ = config.load([name], [], train_records=coco_records)
    sides = [(settings.min_side, settings.max_side) for settings in (experiment.train_input, experiment.eval_input)]
    assert sides == [(1400, 1600), (800, 1333)] and experiment.steps == 147860


BACKBONES = {
    **{"mask_rcnn_r50": "resnet50", "htc_r101": "resnet101", "htc_r50_fpn_lsj": "resnet50", "htc_shapes": None},
    **{"htc_x101_32x4d": "resnext101_32x4d", "htc_x101_64x4d": "resnext101_64x4d"},
    "options/swin_t": "swin_tiny_patch4_window7_224",
    "options/swin_l": "swin_large_patch4_window7_224_22k",
    **{f"swin/{kind}_swin_t": "swin_tiny_patch4_window7_224" for kind in ("mask_rcnn", "cascade_mask_rcnn")},
    "swin/cascade_mask_rcnn_swin_b": "swin_base_patch4_window7_224",
    **{f"options/{name}": None for name in ("from_scratch", "keras_cv_backbone", "overfit")},
    "options/sync_batch_norm": "resnet50",
}


@pytest.mark.parametrize("name", FILES)
def test_the_backbone_weights_fit_the_backbone(name):
    wanted = [weights for part, weights in BACKBONES.items() if name.startswith(f"gin/{part}")]
    files = [name] if name in EXPERIMENTS else [PAPER, name]
    if wanted:
        assert load(*files)[0].backbone_weights == wanted[0]


DETECTRON2 = "gin/detectron2/mask_rcnn_r50_fpn_1x_coco.gin"
OTHER_BACKBONES = [f"gin/options/{name}.gin" for name in ("swin_t", "swin_s", "swin_b", "swin_l", "convnext_t")]


@pytest.mark.parametrize(
    "files", [*((name,) for name in EXPERIMENTS), *((DETECTRON2, name) for name in OTHER_BACKBONES)], ids=" ".join
)
def test_pixels_are_scaled_as_the_backbone_weights_were_trained(files):
    experiment, resolved = load(*files)
    bound = re.search(r"^HTC\.pixel_std = (.*)$", resolved, re.MULTILINE)
    scale = ast.literal_eval(bound[1]) if bound else PIXEL_STD
    if experiment.backbone_weights:
        assert scale == WEIGHTS[experiment.backbone_weights].pixel_std
    for weights in WEIGHTS.values():
        assert weights.gin_files != files or scale == weights.pixel_std


def test_evaluations_are_once_an_epoch_with_validation_records(coco_records):
    for val_records, every in ((None, 0), ("val", 7393)):
        assert config.load([PAPER], [], None, False, coco_records, val_records)[0].evaluate_every == every
    demo = config.load(["gin/htc_shapes.gin"], ["NUM_CLASSES=80"], None, False, coco_records, "val")[0]
    assert (demo.steps, demo.evaluate_every) == (4500, 0)  # its recorded cost includes no evaluation


@pytest.mark.parametrize("name", FILES)
def test_the_command_of_a_header_names_its_file(name):
    header = "".join(line for line in (ROOT / name).read_text().splitlines(True) if line.startswith("#"))
    for command in re.findall(r"#\s+python -m htc_tf.train ((?:.*\\\n)*.*)", header):
        assert f"--gin_file {name}" in command and "--train_records DIR" in command and "--workdir RUN" in command
        assert "--backbone_weights" not in command


def test_the_header_of_the_paper_lists_macros():
    header = (ROOT / PAPER).read_text().split("Macros to set by --gin_param:")[1].split("\n\n")[0]
    listed = re.findall(r"[A-Z_]{3,}", header)
    assert {"EPOCHS", "STEPS", "BACKBONE_WEIGHTS"} < set(listed) <= config.MACROS.keys()


def table(heading):
    """Returns the rows of the first table below a heading of docs/configuration.md, each a list of cells."""
    lines = (ROOT / "docs" / "configuration.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    start = lines.index(next(line for line in lines if line.startswith("|---"))) + 1
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_documentation_lists_every_macro_with_its_default_and_range():
    defaults = dict(line.split(" = ") for line in resolved_paper().splitlines() if line.partition(" ")[0].isupper())
    expected = []
    for name, allowed in config.MACROS.items():
        described = str(allowed).removeprefix("a ").replace(f", at most {MAX_WHOLE}", "")
        expected.append([f"`{name}`", f"`{defaults[name]}`", described])
    assert sorted(row[:3] for row in table("Macros")) == sorted(expected)


@pytest.mark.parametrize(("heading", "folder"), [("Experiment configs", "gin"), ("Overrides", "gin/options")])
def test_the_documentation_lists_every_file(heading, folder):
    listed = [f"{folder}/{name}" for row in table(heading) for name in re.findall(r"`([^`]+\.gin)`", row[0])]
    # A family's files are listed together, as `FOLDER/*.gin`.
    listed = [str(path.relative_to(ROOT)) for name in listed for path in ROOT.glob(name)]
    expected = OVERRIDES if folder == "gin/options" else [name for name in EXPERIMENTS if name.startswith("gin/")]
    assert sorted(listed) == sorted(expected)


@pytest.mark.parametrize("name", FILES)
def test_a_gin_file_begins_with_what_it_configures(name):
    first, *_ = (ROOT / name).read_text().splitlines()
    assert re.match(r"# ([A-Z]|keras|detectron)\S+ .*", first) and first.startswith("# Override") == (name in OVERRIDES)
