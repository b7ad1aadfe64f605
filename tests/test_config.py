"""Loading a configuration: macros, a run's saved configuration, search paths, replaced configurables, missing files."""

import os
import sys
from pathlib import Path

import pytest

from htc_tf import config
from htc_tf.errors import UserError
from tests import forks

ROOT = Path(__file__).resolve().parent.parent
PAPER = "gin/htc_r50_fpn_1x_coco.gin"


def names(resolved):
    return {line.partition(" = ")[0] for line in resolved.splitlines()}


def test_macros_reach_every_configurable_and_the_later_wins():
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
    # gin takes a folder on Python's path for a package and fails.
    (tmp_path / "gin").mkdir()
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert config.load(["tests/tiny.gin"], [])[0].num_classes == 8


def test_an_override_may_replace_a_configurable(tmp_path):
    module, override = tmp_path / "their_schedule.py", tmp_path / "mine.gin"
    module.write_text(
        "import gin\nfrom htc_tf.training.schedules import CosineSchedule\n\n\n"
        "@gin.register\nclass TheirSchedule(CosineSchedule):\n    pass\n"
    )
    override.write_text(
        "import their_schedule\nlearning_rate.schedule = @TheirSchedule()\nTheirSchedule.base = %BASE_LEARNING_RATE\n"
        "TheirSchedule.batch_size = 16\nTheirSchedule.steps = %STEPS\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        experiment, resolved = config.load([PAPER, str(override)], [])
        for param, unused in (("StepSchedule.decay=0.5", r"StepSchedule\.decay"), ("WARMUP_STEPS=5", "WARMUP_STEPS")):
            with pytest.raises(UserError, match=rf"nothing used {unused};"):
                config.load([PAPER, str(override)], [param])
    finally:
        sys.path.remove(str(tmp_path))
    assert type(experiment.optimizer.schedule).__name__ == "TheirSchedule"
    # The run keeps no binding of the replaced class, so it can be read again.
    assert "import their_schedule" in resolved
    assert not [name for name in names(resolved) if "StepSchedule" in name] and "RPN.xla" in names(resolved)
    assert "WARMUP_STEPS" not in names(resolved)  # TheirSchedule has warm-up steps of its own


def test_a_parameter_may_be_bound_without_its_macro():
    experiment, resolved = config.load([PAPER], ["StepSchedule.warmup_steps=7", "Input.aspects=()"])
    assert experiment.optimizer.schedule.warmup_steps == 7 and len(experiment.train_input.shapes) == 2
    assert not {"WARMUP_STEPS", "ASPECTS"} & names(resolved)
    with pytest.raises(UserError, match="nothing used WARMUP_STEP;"):
        config.load([PAPER], ["WARMUP_STEP=7"])


@pytest.mark.parametrize(
    "text",
    [
        "Swin.window = 5",
        "Swin.window  =5",
        "Swin.window \\\n  = 5",
        "Swin:\n  window = 5",
        "htc_tf.models.backbones.swin.Swin.window = 5",
        "backbones.swin.Swin:\n  window = 5",
    ],
)
def test_an_unused_binding_is_refused_however_it_is_written(tmp_path, text):
    last = tmp_path / "last.gin"
    last.write_text(f"{text}\n")
    for files, params in (([PAPER, last], []), ([PAPER], [text])):
        with pytest.raises(UserError, match=r"nothing used Swin\.window;"):
            config.load(files, params)


@pytest.mark.parametrize("text", ["WARMUP_STEPS = 5", "WARMUP_STEPS/macro.value = 5", "a/b = 5", "a/Swin.window = 5"])
def test_an_unused_macro_or_scope_is_refused_however_it_is_written(text):
    name = text.partition("/macro")[0].partition(" ")[0]
    with pytest.raises(UserError, match=rf"nothing used {name};"):
        config.load([PAPER], ["StepSchedule.warmup_steps=7", text])


def test_a_replaced_binding_of_an_earlier_file_is_dropped(tmp_path):
    """Each file must be used completely where it stands; later ones may replace it, and a file its includes."""
    for name, text in (
        ("replaced", "include 'gin/options/swin_t.gin'\nHTC.backbone = @ResNet()\n"),
        ("window", "Swin.window = 5\n"),
        ("resnet", "HTC.backbone = @ResNet()\n"),
    ):
        (tmp_path / f"{name}.gin").write_text(text)
    later = [tmp_path / "window.gin", tmp_path / "resnet.gin", "gin/options/ema.gin"]
    for files in ([PAPER, tmp_path / "replaced.gin"], [PAPER, "gin/options/swin_t.gin", *later]):
        assert "Swin" not in config.load(files, [])[1]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["gin/swin/mask_rcnn_swin_t_fpn_1x_coco.gin", "gin/options/slow_backbone.gin"], r"SGD\.groups"),
        ([PAPER, "window.gin"], r"Swin\.window"),
        ([PAPER, "gin/options/swin_t.gin", "both.gin"], r"Swin\.window"),
        ([PAPER, "macro.gin"], "WARMUP_STEPZ"),
    ],
)
@pytest.mark.parametrize("later", [[], ["gin/options/fine_tune.gin"], ["gin/options/ema.gin", "gin/options/giou.gin"]])
def test_a_file_that_fits_nothing_is_refused_wherever_it_stands(tmp_path, monkeypatch, files, name, later):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "window.gin").write_text("Swin.window = 5\n")
    (tmp_path / "both.gin").write_text("Swin.window = 5\nHTC.backbone = @ResNet()\n")
    (tmp_path / "macro.gin").write_text("WARMUP_STEPZ = 5\n")
    with pytest.raises(UserError, match=rf"nothing used {name};"):
        config.load(files + later, [])


def test_a_later_file_may_use_what_an_earlier_one_binds(tmp_path):
    (tmp_path / "window.gin").write_text("Swin.window = 5\nMINE = 3\n")
    (tmp_path / "mine.gin").write_text("LOG_EVERY = %MINE\nHTC.backbone = @Swin()\n")
    resolved = config.load([PAPER, tmp_path / "window.gin", tmp_path / "mine.gin"], [])[1]
    assert {"Swin.window", "MINE"} < names(resolved)


@pytest.mark.parametrize(
    ("files", "param", "gone"),
    [
        (["gin/cbnet/mask_rcnn_cbv2_swin_t_fpn_3x_coco.gin", "gin/options/convnext_t.gin"], "NUM_CLASSES=2", "Swin"),
        (["gin/htc_r101_fpn_20e_coco.gin"], "HTC.backbone=@Swin()", "ResNet"),
        (["gin/cbnet/faster_rcnn_cbv2d1_r50_fpn_1x_coco.gin"], "HTC.backbone=@Swin()", "ResNet"),
    ],
)
def test_another_backbone_replaces_all_settings_of_the_first(files, param, gone):
    """Also those of backbones inside it, and those of the last file if a flag names the other backbone."""
    assert not [name for name in names(config.load(files, [param])[1]) if f"{gone}." in name]


def test_a_misspelled_name_is_refused_beside_another_backbone(tmp_path):
    last = tmp_path / "last.gin"
    last.write_text("ConvNeXt.channels = 5\nResNet.depth = 101\n")
    with pytest.raises(UserError, match=r"nothing used ConvNeXt\.channels;"):
        config.load([PAPER, last], ["HTC.backbone=@Swin()"])


def test_a_missing_module_is_named(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("import no_such_module\n")
    with pytest.raises(UserError, match=r"No module named 'no_such_module'$"):
        config.load([PAPER, str(path)], [])


def test_a_binding_of_a_function_that_is_called_later_counts_as_used():
    assert "flip.probability = 0.25" in config.load([PAPER], ["flip.probability=0.25"])[1]


@pytest.mark.parametrize("name", ["train/flip.probability", "a/flip.probability", "b/flip.probability"])
def test_a_scope_that_no_reference_to_a_function_has_is_refused(name):
    """It is called in the scope of the reference, not in that of the input which has it."""
    with pytest.raises(UserError, match=f"nothing used {name};"):
        config.load([PAPER], [f"{name}=0.25"])


@pytest.mark.parametrize("scope", ["", "a/", "a/b/"])
def test_a_function_that_is_called_later_takes_bindings_of_the_scopes_of_its_reference(scope):
    scoped = "train/Input.augment=[@a/b/flip]"
    assert f"{scope}flip.probability = 0.25" in config.load([PAPER], [scoped, f"{scope}flip.probability=0.25"])[1]
    for name in ("b/flip.probability", "train/flip.probability", "a/b/c/flip.probability"):
        with pytest.raises(UserError, match=f"nothing used {name};"):
            config.load([PAPER], [scoped, f"{name}=0.25"])


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
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = forks.run("-m", "htc_tf.train", *flags, "--workdir", tmp_path / "run", env=environment)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "num_stagez" in line
    assert not (tmp_path / "run").exists()
