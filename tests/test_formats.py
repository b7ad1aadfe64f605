"""Format numbers: each file that htc_tf writes states one, and a newer one ends in one clear line."""

import json

import pytest

import htc_tf
from htc_tf import formats
from htc_tf.checkpoint_files import CheckpointFiles
from htc_tf.data import datasets
from htc_tf.errors import UserError
from htc_tf.inference.exported import CLASSES, check_format, load_export
from htc_tf.run import Run

NEWER = f"of a newer htc_tf; this one is {htc_tf.__version__} and reads format 1: install the newer htc_tf"


def refuse(read, path):
    with pytest.raises(UserError) as error:
        read()
    assert str(error.value) == f"{path} has format 2, {NEWER}"


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("number", [None, 1, 7])
def test_known_formats(number):
    formats.check(number, 7, "file")


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "1", [1], {"a": 1}])
def test_numbers_that_are_none(number):
    with pytest.raises(UserError, match="file is damaged: its format number is "):
        formats.check(number, 7, "file")


def test_a_newer_run(tmp_path):
    run = Run(tmp_path)
    run.create("STEPS = 1\n", [])
    assert run.config.read_text() == "# htc_tf run, format 1\nSTEPS = 1\n" and run.read_config() == "STEPS = 1\n"
    run.config.write_bytes(b"\xef\xbb\xbf# htc_tf run, format 1\r\nSTEPS = 1\r\n")  # as an editor may save it
    assert run.read_config() == "STEPS = 1\r\n"
    run.config.write_text("STEPS = 1\n")  # a run of before the format numbers
    assert run.read_config() == "STEPS = 1\n"
    run.config.write_text("# htc_tf run, format 2\nSTEPS = 1\n")
    refuse(run.read_config, run.config)


def test_a_newer_checkpoint(tmp_path):
    files = CheckpointFiles(tmp_path)
    files.begin(4, {"seed": 1})
    manifest = tmp_path / "ckpt-4.json"
    assert files.manifest(4) == {"format": 1, "step": 4, "seed": 1, "files": None}
    (tmp_path / "ckpt-4.index").write_bytes(b"")
    rewrite(manifest, files={}, format=2)
    refuse(CheckpointFiles(tmp_path).newest_intact, manifest)
    rewrite(manifest, format=1)
    assert CheckpointFiles(tmp_path).newest_intact()[0] is None  # read, and found damaged


def test_newer_records(tiny_data, tmp_path):
    info = json.loads((tiny_data.records / datasets.INFO_FILE).read_text())
    assert info["version"] == formats.RECORDS
    (tmp_path / datasets.INFO_FILE).write_text(json.dumps({**info, "version": 2}))
    refuse(lambda: datasets.load_info(tmp_path), tmp_path / datasets.INFO_FILE)


def test_a_newer_export(tmp_path):
    classes = tmp_path / "1" / CLASSES
    classes.parent.mkdir(parents=True)
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
    for content in ('{"categories": []}', '{"format": 1}', "[]", "{", "[" * 100_000):
        classes.write_text(content)
        check_format(classes)
    classes.write_text('{"format": 2, "categories": []}')
    refuse(lambda: load_export(tmp_path, "serving_default"), classes)
