"""Bindings that others of a deeper scope hide: the user's own are refused, the defaults of the gin files are not."""

import pytest

from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.run import Run

PAPER = "gin/htc_r50_fpn_1x_coco.gin"
THRESHOLDS = "stage1/Stage.iou_threshold, stage2/Stage.iou_threshold, stage3/Stage.iou_threshold are bound; bind those"
HIDDEN = [
    ("Input.augment=()", "train/Input.augment is bound; bind that"),
    ("Input.batch_size=1", "eval/Input.batch_size, train/Input.batch_size are bound; bind those"),
    ("Input.training=True", "eval/Input.training, train/Input.training are bound; bind those"),
    ("Stage.iou_threshold=0.9", THRESHOLDS),
]


@pytest.mark.parametrize(("text", "winners"), HIDDEN)
def test_a_hidden_binding_is_refused(tmp_path, text, winners):
    last = tmp_path / "last.gin"
    last.write_text(f"{text}\n")
    for files, params in (([PAPER], [text]), ([PAPER, last], []), ([PAPER, last, "gin/options/ema.gin"], [])):
        with pytest.raises(UserError) as refused:
            config.load(files, params)
        assert str(refused.value) == f"gin configuration: {text.partition('=')[0]} has no effect: {winners}"


@pytest.mark.parametrize("binding", ["augment=[@flip]", "shuffle_buffer=7"])
def test_a_binding_of_training_alone_is_refused_for_evaluation(binding):
    refused = f"eval/Input.{binding.partition('=')[0]} has no effect: an Input with training = False does not read it$"
    with pytest.raises(UserError, match=refused):
        config.load([PAPER], [f"eval/Input.{binding}"])


def test_a_hidden_binding_of_a_function_that_is_called_later_is_refused():
    params = ["train/Input.augment=[@a/flip]", "a/flip.probability=0.5", "flip.probability=0.0"]
    with pytest.raises(UserError, match=r"flip\.probability has no effect: a/flip\.probability is bound; bind that$"):
        config.load([PAPER], params)
    config.load([PAPER], ["train/Input.augment=[@a/flip, @flip]", *params[1:]])


@pytest.mark.parametrize(
    "params",
    [
        ["Input.max_side=900", "train/Input.max_side=1000"],  # the input of evaluation takes it
        ["Input.resize=@multi_scale", "multi_scale.min_sides=(32,)"],  # nothing hides it
        ["Stage.roi_sampler=@RoISampler()", "stage2/Stage.roi_sampler=@RoISampler()"],
    ],
)
def test_a_binding_that_one_call_takes_is_accepted(params):
    config.load([PAPER], params)


def test_later_files_and_flags_may_hide_a_binding(tmp_path):
    """As they may replace it."""
    (tmp_path / "every.gin").write_text("Input.mask_size = 28\n")
    hide = ["train/Input.mask_size=56", "eval/Input.mask_size=56"]
    (tmp_path / "hide.gin").write_text("\n".join(hide))
    files = [PAPER, tmp_path / "every.gin"]
    for experiment, _ in (config.load(files, hide), config.load([*files, tmp_path / "hide.gin"], [])):
        assert experiment.train_input.mask_size == 56
    with pytest.raises(UserError, match=r"^gin configuration: Input\.mask_size has no effect: "):
        config.load([PAPER, tmp_path / "hide.gin", tmp_path / "every.gin"], [])


def test_a_saved_run_keeps_its_hidden_bindings(tmp_path):
    run = Run(tmp_path)
    run.create(config.load(["tests/tiny.gin"], [])[1] + "\nInput.batch_size = 7\n", [])
    assert "\nInput.batch_size = 7\n" in config.load([], ["LOG_EVERY=3"], run)[1]
