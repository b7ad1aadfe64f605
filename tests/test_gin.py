"""Every gin file builds, every knob is a knob, and every mistake is named in one line."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from htc_tf import config
from htc_tf.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PAPER = "gin/htc_r50_fpn_1x_coco.gin"
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin").rglob("*.gin"))
RUNS = [name for name in FILES if name.split("/")[1] not in ("base", "options")] + ["tests/tiny.gin"]
OVERLAYS = [name for name in FILES if name.startswith("gin/options/")]
KNOBS = [
    "NUM_CLASSES",
    "BATCH_SIZE",
    "BASE_LEARNING_RATE",
    "STEPS",
    "IMAGE_MIN_SIDE",
    "IMAGE_MAX_SIDE",
    "MAX_OBJECTS",
    "PRECISION",
    "XLA",
    "LOG_EVERY",
    "CHECKPOINT_EVERY",
    "EVALUATE_EVERY",
    "DETERMINISTIC",
    "ACCUMULATE",
    "STEPS_PER_LOOP",
]


def names(resolved):
    return {line.partition(" = ")[0] for line in resolved.splitlines()}


@functools.cache
def resolved_paper():
    return config.load([PAPER], [])[1]


def test_there_are_files():
    assert PAPER in RUNS and len(RUNS) >= 6 and OVERLAYS


@pytest.mark.parametrize("name", RUNS)
def test_run_files_build_and_have_every_knob(name):
    experiment, resolved = config.load([name], [])
    assert set(KNOBS) <= names(resolved)
    assert experiment.num_classes >= 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_build_on_the_papers_configuration(name):
    paper = resolved_paper()
    _, changed = config.load([PAPER, name], [])
    assert set(KNOBS) <= names(changed) and changed != paper
    # What it leaves out belongs to a part that it has put another in the place of.
    left_out = {re.sub(r".*/|\..*", "", name) for name in names(paper) - names(changed) if not name.startswith("#")}
    assert not [part for part in left_out if f"@{part}(" in changed or part.isupper()]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("gin/base/schedule_")])
def test_schedules_build(name, tmp_path):
    parts = ["gin/base/model.gin", "gin/base/data.gin", name, "gin/base/runtime.gin"]
    path = tmp_path / "run.gin"
    path.write_text("".join(f"include '{part}'\n" for part in parts))
    experiment, resolved = config.load([str(path)], [])
    assert set(KNOBS) <= names(resolved)
    assert experiment.optimizer.build().learning_rate.numpy() < 0.02  # the first step of a warm-up


def test_the_papers_numbers():
    experiment, _ = config.load([PAPER], [])  # Anew: a model is built from the files that were loaded last.
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
def test_the_two_stage_detectors_are_mmdetections(name, masks, low_quality):
    """Source: configs/_base_/models/mask-rcnn_r50_fpn.py and faster-rcnn_r50_fpn.py there."""
    experiment, _ = config.load([f"gin/{name}_r50_fpn_1x_coco.gin"], [])
    model, objective = experiment.build_model(), experiment.objective
    (stage,) = model.stages
    assert (stage.iou_threshold, stage.target_stds, stage.box_head.class_agnostic) == (0.5, (0.1, 0.1, 0.2, 0.2), False)
    assert model.masks is masks and model.semantic_head is None and model.roi_sampler.low_quality is low_quality
    assert (objective.stage_weights, objective.rpn_beta, objective.box_beta) == ((1.0,), 0.0, 0.0)
    assert model.rpn.proposals == {True: 2000, False: 1000} and model.rpn.kept[True] == 1000
    assert (model.postprocess.score_threshold, objective.anchor_sampler.inside_only) == (0.05, False)


@pytest.mark.parametrize("name, masks", [("cascade_mask_rcnn", True), ("cascade_rcnn", False)])
def test_the_cascades_are_mmdetections(name, masks):
    """Source: configs/_base_/models/cascade-mask-rcnn_r50_fpn.py and cascade-rcnn_r50_fpn.py there."""
    experiment, _ = config.load([f"gin/{name}_r50_fpn_1x_coco.gin"], [])
    model, objective = experiment.build_model(), experiment.objective
    assert model.masks is masks and not model.interleaved and not model.mask_info_flow and model.semantic_head is None
    assert (len(model.stages), objective.stage_weights, objective.box_beta) == (3, (1.0, 0.5, 0.25), 1.0)
    assert all(stage.box_head.class_agnostic for stage in model.stages)
    assert not model.roi_sampler.low_quality and model.postprocess.score_threshold == 0.05
    assert model.average_masks and objective.anchor_sampler.inside_only


def test_large_scale_jitter_for_100_epochs():
    experiment, _ = config.load(["gin/htc_r50_fpn_lsj_100e_coco.gin"], [])
    schedule = experiment.optimizer.schedule
    assert experiment.steps * experiment.batch_size == pytest.approx(100 * 118287, abs=experiment.batch_size)
    assert (schedule.peak, experiment.optimizer.decay) == (0.08, 4e-5)
    rates = [float(schedule(round(at * experiment.steps))) for at in (0.89, 0.91, 0.96, 0.98)]
    assert rates == pytest.approx([0.08, 0.008, 8e-4, 8e-5])


def test_multi_scale_training_evaluates_at_one_scale():
    experiment, _ = config.load(["gin/htc_x101_64x4d_fpn_dconv_c3_c5_ms_400_1400_20e_coco.gin"], [])
    sides = [(settings.min_side, settings.max_side) for settings in (experiment.train_input, experiment.eval_input)]
    assert sides == [(1400, 1600), (800, 1333)] and experiment.steps == 147860


def test_knobs_reach_their_parts_and_the_later_wins():
    params = ["STEPS=7", "BATCH_SIZE=3", "BASE_LEARNING_RATE=0.16", "MAX_OBJECTS=5", "XLA=True", "STEPS=9"]
    params += ["IMAGE_MIN_SIDE=100", "IMAGE_MAX_SIDE=120", "NUM_CLASSES=2", "LOG_EVERY=2", "CHECKPOINT_EVERY=3"]
    params += ["EVALUATE_EVERY=4", "PRECISION='bfloat16'", "DETERMINISTIC=True"]
    experiment, resolved = config.load([PAPER, "gin/options/schedule_20e.gin"], params)
    model = experiment.build_model()
    assert (experiment.steps, experiment.batch_size, experiment.num_classes) == (9, 3, 2)
    assert (experiment.log_every, experiment.checkpoint_every, experiment.evaluate_every) == (2, 3, 4)
    assert (experiment.precision, experiment.xla, experiment.deterministic) == ("bfloat16", True, True)
    assert experiment.train_input.batch_size == 3 and experiment.train_input.max_objects == 5
    for settings in (experiment.train_input, experiment.eval_input):
        assert (settings.min_side, settings.max_side) == (100, 120)
    assert experiment.optimizer.schedule.peak == pytest.approx(0.16 * 3 / 16)
    assert model.roi_pooler.implementation == model.rpn.nms == model.postprocess.nms == "xla"
    assert "STEPS = 9" in resolved


def test_a_saved_configuration_is_read_first(tmp_path):
    from htc_tf.run import Run

    run = Run(tmp_path)
    run.create(config.load(["tests/tiny.gin"], ["STEPS=5"])[1], [])
    experiment, _ = config.load([], ["MAX_OBJECTS=3"], run)
    assert (experiment.steps, experiment.eval_input.max_objects, experiment.num_classes) == (5, 3, 8)


def test_files_are_found_from_any_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text(f"include '{PAPER}'\nSTEPS = 2\n")
    assert config.load(["mine.gin"], [])[0].steps == 2
    assert not caplog.records


def test_a_file_is_found_beside_a_folder_of_the_same_name(tmp_path, monkeypatch):
    # gin takes a folder on Python's path for a package, and fails on it.
    (tmp_path / "gin").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert config.load(["tests/tiny.gin"], [])[0].num_classes == 8


def test_an_overlay_may_put_another_part_in_place_of_one(tmp_path):
    module, overlay = tmp_path / "their_schedule.py", tmp_path / "mine.gin"
    module.write_text(
        "import gin\nfrom htc_tf.training.optim import CosineSchedule\n\n\n"
        "@gin.register\nclass TheirSchedule(CosineSchedule):\n    pass\n"
    )
    overlay.write_text(
        "import their_schedule\nlearning_rate.schedule = @TheirSchedule()\nTheirSchedule.base = %BASE_LEARNING_RATE\n"
        "TheirSchedule.batch_size = 16\nTheirSchedule.steps = %STEPS\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        experiment, resolved = config.load([PAPER, str(overlay)], [])
        with pytest.raises(UserError, match=r"nothing used StepSchedule\.decay"):
            config.load([PAPER, str(overlay)], ["StepSchedule.decay=0.5"])
    finally:
        sys.path.remove(str(tmp_path))
    assert type(experiment.optimizer.schedule).__name__ == "TheirSchedule"
    # What is saved in the run holds nothing of the old one, so that it can be read again.
    assert "import their_schedule" in resolved
    assert not [name for name in names(resolved) if "StepSchedule" in name] and "RPN.xla" in names(resolved)


def test_a_module_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("import no_such_module\n")
    with pytest.raises(UserError, match=r"No module named 'no_such_module'$"):
        config.load([PAPER, str(path)], [])


def test_a_binding_of_what_is_called_later_counts_as_used():
    assert "flip.probability = 0.25" in config.load([PAPER], ["flip.probability=0.25"])[1]


@pytest.mark.parametrize(
    "param, named",
    [
        ("HTC.num_stagez=2", "num_stagez"),
        ("Nonsense.value=1", "Nonsense"),
        ("HTC.backbone=@Nonsense()", "Nonsense"),
        ("AdamW.decay=0.1", "AdamW.decay"),
        ("multi_scale.min_sides=[8]", "multi_scale.min_sides"),
        ("stage4/Stage.iou_threshold=0.8", "stage4/Stage.iou_threshold"),
        ("STEPZ=3", "STEPZ"),
        ("STEPS=%NOWHERE", "NOWHERE"),
        ("STEPS='abc'", "STEPS = 'abc'"),
        ("STEPS=2.5", "STEPS = 2.5"),
        ("STEPS=-1", "STEPS = -1"),
        ("BATCH_SIZE='abc'", "BATCH_SIZE = 'abc'"),
        ("BATCH_SIZE=True", "BATCH_SIZE = True"),
        ("BASE_LEARNING_RATE='abc'", "BASE_LEARNING_RATE = 'abc'"),
        ("IMAGE_MIN_SIDE='abc'", "IMAGE_MIN_SIDE = 'abc'"),
        ("IMAGE_MAX_SIDE=1", "Input.max_side = 1"),
        ("MAX_OBJECTS=0", "MAX_OBJECTS = 0"),
        ("PRECISION='half'", "PRECISION = 'half'"),
        ("PRECISION=bfloat16", "PRECISION=bfloat16"),
        ("XLA='yes'", "XLA = 'yes'"),
        ("NUM_STAGES=4", "num_stages = 4"),
        ("SemanticHead.channels=64", "SemanticHead.channels = 64, but FPN.channels = 256"),
        ("MaskHead.channels=64", "MaskHead.channels = 64, but FPN.channels = 256"),
        ("NUM_STAGES='x'", "NUM_STAGES = 'x'"),
        ("ResNet.depth=7", "ResNet.depth = 7"),
        ("ResNet.norm='nonsense'", "'nonsense'"),
        ("RoIPooler.implementation='nonsense'", "RoIPooler.implementation = 'nonsense'"),
        ("HTCLoss.box_loss='giou'", "HTCLoss.box_loss is no loss: 'giou'"),
        ("FocalLoss.gamma=2.0", "FocalLoss.gamma"),
        ("HTCLoss.semantic_mean='nonsense'", "HTCLoss.semantic_mean = 'nonsense'"),
        ("STEPS=3 4", "STEPS=3 4"),
        ("STEPS=abc", "'abc' is no value; a string needs quotation marks of its own"),
        ("MASKS=false", "'false' is no value"),
        ("Experiment.optimizer=AdamW", "'AdamW' is no value"),
        ("train/Input.augment=[flip]", "a part needs an @"),
        ("BASE_LEARNING_RATE=nan", "'nan' is no value"),
        ("STEPS=(5", "--gin_param: a bracket or a quotation mark is not closed"),
        ("STEPS=" + "9" * 10000, "is no value"),
        ("STEPS=0x" + "f" * 10000, "STEPS = a value too long to be shown"),
        ("train/Input.augment=[@flip()]", "missing 1 required positional argument: 'sample'"),
    ],
)
def test_mistakes_are_named(param, named):
    with pytest.raises(UserError) as error:
        config.load([PAPER], [param])
    message = str(error.value)
    assert named in message and "<class" not in message and " at 0x" not in message and len(message) < 600
    assert "\n" not in message


@pytest.mark.parametrize(
    "text, told",
    [
        (b"STEPS = 3\nSTEPS = abc\n", "{file}, line 2: 'abc' is no value"),
        (b"STEPS = (3\n", "{file}: a bracket or a quotation mark is not closed"),
        (b"STEPS = 3\nNonsense.value = 3\n", "{file}, line 2: No configurable matching 'Nonsense'"),
        (b"STEPS = 3\nHTC.num_stagez = 3\n", "{file}, line 2: Configurable 'HTC' doesn't have a parameter named"),
        (b"# caf\xe9\n", "{file}: 'utf-8' codec can't decode"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_the_file(tmp_path, text, told):
    path = tmp_path / "mine.gin"
    path.write_bytes(text)
    with pytest.raises(UserError) as refused:
        config.load([PAPER, str(path)], [])
    assert str(refused.value).startswith(told.format(file=path)) and "\n" not in str(refused.value)


def test_missing_files_are_named(tmp_path, caplog):
    with pytest.raises(UserError, match=r"gin/nowhere\.gin"):
        config.load(["gin/nowhere.gin"], [])
    (tmp_path / "mine.gin").write_text("include 'gin/no_such_base.gin'\n")
    with pytest.raises(UserError, match=r"gin/no_such_base\.gin"):
        config.load([str(tmp_path / "mine.gin")], [])
    with pytest.raises(UserError, match="gin file gin is a folder"):
        config.load(["gin"], [])
    with pytest.raises(UserError, match="--gin_file"):
        config.load([], [])
    assert not caplog.records


def test_a_command_ends_with_status_2_and_one_line(tmp_path):
    flags = ["--gin_file", PAPER, "--gin_param", "HTC.num_stagez=2", "--train_records", "nowhere"]
    done = subprocess.run(
        [sys.executable, "-m", "htc_tf.train", *flags, "--workdir", tmp_path / "run"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "num_stagez" in line
    assert not (tmp_path / "run").exists()
