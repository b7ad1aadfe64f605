"""Flags of `python -m htc_tf.export`: what they change in the model and in its outputs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import htc_tf.export
from htc_tf import config
from htc_tf.run import Run
from htc_tf.serving.module import Options

TINY = str(Path(__file__).with_name("tiny.gin"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of an XLA training, without checkpoints."""
    run = Run(tmp_path_factory.mktemp("run"))
    run.create(config.load([TINY], ["XLA = True"])[1], [{"id": 1, "name": "circle"}])
    return run.folder


@pytest.fixture
def call(monkeypatch, run_folder, tmp_path):
    """call("--xla", ...) returns (Experiment, Options) of the export; nothing is restored or written."""
    seen = []
    model = SimpleNamespace(masks=True)
    monkeypatch.setattr(
        "htc_tf.inference.detector.restore",
        lambda experiment, run: SimpleNamespace(model=model, experiment=experiment),
    )
    monkeypatch.setattr(
        "htc_tf.serving.write.export",
        lambda detector, categories, folder, options: seen.append((detector.experiment, options)),
    )
    monkeypatch.setattr(
        "htc_tf.serving.onnx.export_onnx", lambda detector, *_: seen.append((detector.experiment, None))
    )
    monkeypatch.setattr("htc_tf.serving.model_card.write_card", lambda *arguments: None)

    def run(*flags):
        files = ["--checkpoint", str(run_folder), "--output", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["export", *files, *flags])
        htc_tf.export.main()
        return seen.pop()

    return run


def parts(experiment):
    model = experiment.build_model()
    return model.roi_pooler.implementation, model.rpn.nms, model.postprocess.nms


def test_defaults(call):
    # However the run was trained, a server without XLA gets what it can compute.
    experiment, options = call()
    assert parts(experiment) == ("crop_and_resize", "combined", "combined") and not experiment.xla
    assert options == Options() and options.masks == ("masks_rle_bytes",) and options.batch_sizes == (1, 4)
    assert experiment.precision == "float32"


def test_implementation_flags(call):
    experiment, options = call("--xla", "--batch_sizes", "1,2,8", "--precision", "bfloat16")
    assert parts(experiment) == ("xla", "xla", "xla") and experiment.precision == "bfloat16"
    assert options.xla and options.batch_sizes == (1, 2, 8)
    assert parts(call("--roi_align", "xla")[0]) == ("xla", "combined", "combined")


def test_onnx_is_built_of_operations_that_it_has(call):
    experiment, _ = call("--onnx", "--gin_file", "gin/options/bf16.gin")
    assert parts(experiment) == ("crop_and_resize", "xla", "xla") and not experiment.xla
    assert experiment.precision == "float32"


def test_a_precision_may_be_a_gin_parameter(call):
    assert call("--gin_param", "PRECISION='bfloat16'")[0].precision == "bfloat16"


def test_output_flags(call):
    options = call("--masks", "masks_28,masks_rle_bytes", "--masks", "masks_28", "--semantic", "--max_pixels", "9")[1]
    assert options == Options(("masks_28", "masks_rle_bytes"), semantic=True, max_pixels=9)
    assert call("--masks", "none")[1].masks == ()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--xla", "--roi_align", "crop_and_resize"], "--roi_align crop_and_resize"),
        (["--xla", "--onnx"], "--xla: only for the SavedModel"),
        *(
            (["--onnx", *flags.split()], f"{flags.split()[0]}: only for the SavedModel")
            for flags in (
                "--roi_align xla",
                "--semantic",
                "--masks none",
                "--batch_sizes 1,2",
                "--max_pixels 1000",
                "--license MIT",
                "--precision bfloat16",
            )
        ),
        (["--masks", ","], "--masks ,: names no output"),
        (["--output", "x[1]"], "x[1]: TensorFlow cannot read a SavedModel"),
        *(
            ([*flags, "--gin_param", param], f"--gin_param {param}: the other flags of this command set it")
            for flags, param in (
                ([], "XLA=False"),
                ([], "RPN.nms = 'xla'"),
                (["--roi_align", "xla"], "RoIPooler.implementation='crop_and_resize'"),
                (["--precision", "bfloat16"], "PRECISION='float32'"),
                (["--onnx"], "PRECISION='bfloat16'"),
            )
        ),
        (["--onnx", "--license", "MIT", "--semantic"], "--semantic, --license: only for the SavedModel; leave"),
        *(
            (["--batch_sizes", sizes], f"--batch_sizes {sizes}")
            for sizes in ("1,two", "0", "4,1", "2,2", "1,99999", "")
        ),
    ],
)
def test_refuses(call, capsys, flags, named):
    with pytest.raises(SystemExit) as ended:
        call(*flags)
    assert ended.value.code == 2 and named in capsys.readouterr().err
