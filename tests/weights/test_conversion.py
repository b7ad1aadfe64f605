"""Conversion: from a checkpoint file to a run that restores and starts a training; and the files that it refuses."""

import errno
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import htc_tf.convert
from htc_tf import config
from htc_tf.errors import UserError
from htc_tf.inference.detector import restore
from htc_tf.models.htc import HTC
from htc_tf.run import Run
from htc_tf.training.trainer import train
from htc_tf.weights import conversion, mmdet_arrays, paddle_arrays
from htc_tf.weights.sources import SOURCES

TINY = str(Path(__file__).resolve().parents[1] / "tiny.gin")
# The demo's network has norms that mmdetection's lacks.
PLAIN = [f"{part}.norm=None" for part in ("FPN", "BoxHead", "MaskHead", "SemanticHead")]
SMALL = [*PLAIN, "NUM_STAGES=2", "SEMANTIC=False", "RPN.inference_proposals=1", "Postprocess.keep=1"]


@pytest.fixture(scope="module")
def arrays(tiny_model):
    """Weights under mmdetection's names with distinct values."""
    _, model = tiny_model(*SMALL)
    rng = np.random.default_rng(0)
    return {
        name: array if name.endswith("num_batches_tracked") else rng.random(array.shape, np.float32)
        for name, array in mmdet_arrays(model).items()
    }


@pytest.fixture
def convert(tiny_data, tmp_path, monkeypatch, capsys):
    """Returns call("mmdet", FILE, flags ...), which returns (Run, standard output, standard error)."""

    def call(source, path, *flags, annotations=tiny_data.annotations, params=SMALL):
        flags = ["--weights", path, "--gin_file", TINY, "--output", tmp_path / "run", *flags]
        flags += ["--source", source] if source else []
        flags += [part for param in params for part in ("--gin_param", param)]
        flags += ["--annotations", annotations] if annotations else []
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, flags)])
        capsys.readouterr()
        htc_tf.convert.main()
        return Run(tmp_path / "run"), *capsys.readouterr()

    return call


@pytest.fixture
def refused(convert, tmp_path, capsys):
    """Returns the lines on standard error of a conversion that ends with status 2 and writes nothing."""

    def call(*arguments, **options):
        with pytest.raises(SystemExit) as ended:
            convert(*arguments, **options)
        assert ended.value.code == 2 and not (tmp_path / "run").exists()
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
        return lines

    return call


def restored(run):
    experiment, _ = config.load([], [], run)
    return restore(experiment, run).model


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_converted_run_is_like_any_other(convert, write, arrays, tiny_data, tmp_path, capsys):
    path = tmp_path / "x.pth"
    write.pytorch_zip(path, {"state_dict": arrays, "meta": {"epoch": 12, "CLASSES": ("a", "b")}})
    run, out, err = convert("mmdet", path)
    model = restored(run)
    assert_same(mmdet_arrays(model), arrays)
    listed = json.loads(tiny_data.annotations.read_text())["categories"]
    assert run.read_categories() == [{"id": row["id"], "name": row["name"]} for row in listed]
    count = len(model.variables)
    made, then = out.splitlines()
    assert made == f"{run.folder}: {count} of {count} variables from {path}, 0 keep their initial values" and not err
    assert then == f"next: python -m htc_tf.predict --checkpoint {run.folder} --input photo.jpg --output pictures"

    # Training starts from the weights at step 0, but refuses those of a larger network.
    experiment, resolved = config.load([TINY], [*SMALL, "NUM_STAGES=1"])
    with pytest.raises(UserError, match="it also has"):
        train(experiment, resolved, tiny_data.records, None, run)
    experiment, resolved = config.load([TINY], [*SMALL, "STEPS=0"])
    train(experiment, resolved, tiny_data.records, None, run)
    assert "starting from" in capsys.readouterr().out
    assert_same(mmdet_arrays(restored(run)), arrays)

    # A second conversion does not overwrite the run.
    with pytest.raises(SystemExit):
        convert("mmdet", path)
    assert f"{run.folder} already holds a run" in capsys.readouterr().err


def test_a_file_alone_tells_source_and_classes(convert, write, arrays, tmp_path):
    names = tuple("abcdefgh")
    averages = {name: array * 2 if array.dtype == np.float32 else array for name, array in arrays.items()}
    content = {"state_dict": averages, "ema_state_dict": arrays, "meta": {"dataset_meta": {"classes": names}}}
    write.pytorch_zip(tmp_path / "x.pth", content)
    run, *_ = convert(None, tmp_path / "x.pth", "--ema", "no", annotations=None)
    assert run.read_categories() == [{"id": key, "name": name} for key, name in enumerate(names, 1)]
    assert_same(mmdet_arrays(restored(run)), arrays)


def test_another_order_of_classes_is_noted(convert, write, arrays, tmp_path):
    """By the annotations' ids the outputs would get each other's names without a word."""
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"categories": [{"id": i, "name": name} for i, name in enumerate("abcdefgh")]}))
    content = {"state_dict": arrays, "meta": {"CLASSES": tuple("hbcdefga")}}
    write.pytorch_zip(tmp_path / "x.pth", content)
    run, _, err = convert(None, tmp_path / "x.pth", annotations=annotations)
    assert "".join(row["name"] for row in run.read_categories()) == "abcdefgh"
    (line,) = err.splitlines()
    assert (
        line.startswith("note: the file lists its classes as h, b, ")
        and f"{annotations} by their ids as a, b, " in line
    )


def test_mmdetection_1_in_the_older_format(convert, write, arrays, tmp_path):
    old = {name.removeprefix("roi_head."): array for name, array in arrays.items()}
    for name, array in old.items():
        if ".fc_cls." in name:
            old[name] = np.roll(array, 1, axis=0)
        if name.startswith("mask_head.") and ".conv_logits." in name:
            old[name] = np.concatenate([np.ones_like(array[:1]), array])
    old["mask_head.0.conv_res.conv.bias"] = np.zeros([16], "f4")
    write.pytorch_legacy(tmp_path / "x.pth", {"state_dict": old})
    run, _, err = convert("mmdet", tmp_path / "x.pth")
    assert_same(mmdet_arrays(restored(run)), arrays)
    assert "note: these are weights of mmdetection 1" in err


def test_paddle(convert, write, tiny_model, tmp_path):
    params = [*PLAIN, "RPN.inference_proposals=1", "Postprocess.keep=1"]
    _, model = tiny_model(*params)
    assert not conversion.has_paddle_stds(model)
    named = {name: array + 1 for name, array in paddle_arrays(model).items()}
    write.paddle_tuples(tmp_path / "x.pdparams", named)
    run, _, err = convert("paddle", tmp_path / "x.pdparams", params=params)
    assert_same(paddle_arrays(restored(run)), named)
    assert "--gin_file gin/options/paddle.gin" in err


def test_the_target_stds_of_the_port_need_no_note(tiny_experiment):
    own = tiny_experiment("stage3/Stage.target_stds = (0.0333333, 0.0333333, 0.0666667, 0.0666667)")
    assert conversion.has_paddle_stds(own.build_model())
    assert conversion.has_paddle_stds(tiny_experiment("NUM_STAGES=2").build_model())


def test_torchvision_gives_the_backbone(convert, write, arrays, tmp_path):
    named = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    named |= {"fc.weight": np.zeros([1000, 64], "f4"), "fc.bias": np.zeros([1000], "f4")}
    write.pytorch_legacy(tmp_path / "x.pth", named)
    run, out, err = convert("torchvision", tmp_path / "x.pth")
    found = mmdet_arrays(restored(run))
    assert_same(
        {name: a for name, a in found.items() if name.startswith("backbone.")},
        {name: a for name, a in arrays.items() if name.startswith("backbone.")},
    )
    initial = found["roi_head.bbox_head.1.fc_cls.weight"]
    assert 0.005 < initial.std() < 0.02 and "keep their initial values" in out and not err


def test_another_number_of_classes(convert, refused, write, arrays, tmp_path):
    """The common case: fine-tuning a model of COCO's classes on others."""
    write.pytorch_zip(tmp_path / "x.pth", arrays)
    annotations = tmp_path / "mine.json"
    annotations.write_text(json.dumps({"categories": [{"id": 7, "name": "b"}, {"id": 5, "name": "a"}]}))
    options = {"annotations": annotations, "params": [*SMALL, "NUM_CLASSES=2"]}
    *lines, error = refused("mmdet", tmp_path / "x.pth", **options)
    expected = [
        line
        for s in (0, 1)
        for line in (
            f"another shape: roi_head.bbox_head.{s}.fc_cls.weight: [3, 16] here, [9, 16] there",
            f"another shape: roi_head.bbox_head.{s}.fc_cls.bias: [3] here, [9] there",
            f"another shape: roi_head.mask_head.{s}.conv_logits.weight: [2, 16, 1, 1] here, [8, 16, 1, 1] there",
            f"another shape: roi_head.mask_head.{s}.conv_logits.bias: [2] here, [8] there",
        )
    ]
    assert sorted(lines) == sorted(expected)
    assert "in 8 names" in error and "--allow_partial" in error and str(tmp_path / "x.pth") in error
    *lines, error = refused("mmdet", tmp_path / "x.pth", "--allow_partial", "fc_cls", **options)
    assert "in 4 names" in error and sum(line.endswith("(allowed)") for line in lines) == 4

    flags = ("--allow_partial", "fc_cls", "--allow_partial", r"mask_head\.\d\.conv_logits")
    run, out, _ = convert("mmdet", tmp_path / "x.pth", *flags, **options)
    assert run.read_categories() == [{"id": 5, "name": "a"}, {"id": 7, "name": "b"}]
    assert "8 keep their initial values" in out
    found = mmdet_arrays(restored(run))
    for name, array in arrays.items():
        if f"another shape: {name}:" in " ".join(expected):
            assert found[name].shape != array.shape and found[name].std() < 1
        else:
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_every_name_that_does_not_match_is_listed(refused, write, arrays, tmp_path):
    changed = dict(arrays)
    changed["neck.fpn_convs.0.conv.weigth"] = changed.pop("neck.fpn_convs.0.conv.weight")
    changed["backbone.layer1.0.extra"] = np.zeros([], "f4")
    write.pytorch_zip(tmp_path / "x.pth", changed)
    *lines, error = refused("mmdet", tmp_path / "x.pth", "--allow_partial", "extra$")
    assert lines == [
        "missing in the file: neck.fpn_convs.0.conv.weight",
        "not in the model: neck.fpn_convs.0.conv.weigth",
        "not in the model: backbone.layer1.0.extra (allowed)",
    ]
    assert "in 2 names" in error


def test_an_unknown_name_is_told_before_the_configuration(tmp_path, monkeypatch, capsys):
    """Without --gin_file, which a known name would not need."""
    monkeypatch.setattr(sys, "argv", ["convert", "--weights", "htc_r50_fpn_1x_coc", "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        htc_tf.convert.main()
    assert "the nearest are htc_r50_fpn_1x_coco, " in capsys.readouterr().err


def test_mistakes_are_refused_before_the_model_is_built(refused, write, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(HTC, "build_variables", None)
    path = tmp_path / "x.pth"
    assert f"--weights {path} is missing: give a checkpoint file, or a name of" in refused("mmdet", path)[-1]
    unknown = "--weights htc_r50_1x_coco is missing, and no public weights have this name; the nearest"
    assert unknown in refused(None, "htc_r50_1x_coco")[-1]
    assert "resnet50-0676ba61.pth is not in the cache, and HTC_TF_OFFLINE is set" in refused(None, "resnet50")[-1]
    write.pytorch_zip(path, {"state_dict": arrays})
    missing = "--annotations is missing: NUM_CLASSES = 8, and the file does not name its classes"
    assert missing in refused("mmdet", path, annotations=None)[-1]
    write.pytorch_zip(path, {"state_dict": arrays, "meta": {"CLASSES": tuple("abcdefgh")}})
    differs = "NUM_CLASSES = 3, but the file has 8 classes: add --gin_param NUM_CLASSES=8, or --annotations"
    assert differs in refused("mmdet", path, annotations=None, params=[*SMALL, "NUM_CLASSES=3"])[-1]
    assert "holds no averaged (EMA) weights: leave out --ema yes" in refused(None, path, "--ema", "yes")[-1]
    assert "add --gin_param NUM_CLASSES=8" in refused("mmdet", path, params=[*SMALL, "NUM_CLASSES=3"])[-1]
    assert f"--annotations {path} is a zip archive" in refused("mmdet", path, annotations=path)[-1]
    assert "nowhere cannot be read" in refused("mmdet", path, annotations=tmp_path / "nowhere")[-1]
    assert "not a regular expression" in refused("mmdet", path, "--allow_partial", "*fc_cls*")[-1]
    name = "neck.fpn_convs.0.conv.weight"
    write.pytorch_zip(path, arrays | {name: arrays[name] * np.float32(np.nan)})
    assert f"NaN or infinity in {name}" in refused("mmdet", path)[-1]


@pytest.mark.parametrize(
    ("source", "writer"), [("mmdet", "pytorch_zip"), ("torchvision", "pytorch_legacy"), ("paddle", "paddle_arrays")]
)
def test_a_file_with_code_ends_with_status_2(refused, write, tmp_path, source, writer):
    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    getattr(write, writer)(tmp_path / "x", {"a": np.zeros(3, "f4"), "b": Harmful()})
    (line,) = refused(source, tmp_path / "x")
    assert str(tmp_path / "x") in line and "system" in line
    assert not (tmp_path / "marker").exists()


def test_nothing_remains_on_a_full_disk(convert, write, arrays, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "ckpt-0.json")

    write.pytorch_zip(tmp_path / "x.pth", arrays)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(conversion.Checkpoints, "save", fail)
        convert("mmdet", tmp_path / "x.pth")
    assert "No space left" in capsys.readouterr().err and os.listdir(folder) == ["notes.txt"]
    run, *_ = convert("mmdet", tmp_path / "x.pth")
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "classes.json", "config.gin", "notes.txt"}
    assert_same(mmdet_arrays(restored(run)), arrays)


def test_config_gin_comes_last(tmp_path, monkeypatch):
    """A killed conversion leaves no config.gin, so its folder is no run; the next conversion names what is left."""
    run, rename = Run(tmp_path), Path.rename

    def die_at_the_last(path, target):
        if path.name == "config.gin":
            raise KeyboardInterrupt
        return rename(path, target)

    def stand_in(run, model):
        return SimpleNamespace(save=lambda number: run.checkpoints.mkdir())

    monkeypatch.setattr(conversion, "Checkpoints", stand_in)
    monkeypatch.setattr(Path, "rename", die_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        conversion.write_run(run, "", [], None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "classes.json"}
    with pytest.raises(UserError, match=rf"^{run.checkpoints} is there without config.gin: move it away, or name"):
        conversion.check_new(run)


def test_every_source_can_be_named():
    assert set(htc_tf.convert.SOURCES) == set(SOURCES)
