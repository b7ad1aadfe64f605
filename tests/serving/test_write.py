"""Export folders: options that make no sense, full disks and a second export at the same time are refused."""

import errno
from types import SimpleNamespace

import pytest
import tensorflow as tf

from htc_tf import lock
from htc_tf.errors import UserError
from htc_tf.inference.detector import Detector
from htc_tf.serving.module import Options, ServingModule
from htc_tf.serving.onnx import export_onnx
from htc_tf.serving.write import LOCK, export

CATEGORIES = [{"id": 10 * index, "name": f"thing {index}"} for index in range(8)]
EXPORTS = {
    ".unfinished": lambda detector, folder: export(detector, [], folder, Options(masks=())),
    ".unfinished_onnx": lambda detector, folder: export_onnx(detector, [], folder),
}


@pytest.fixture(scope="module")
def detector(tiny_model):
    experiment, model = tiny_model("NUM_STAGES=1", "IMAGE_MAX_SIDE=96", "ASPECTS=()")
    return Detector(model, experiment)


def test_options_are_checked(detector, tmp_path, tiny_model):
    for options, name in (
        (Options(("masks",)), "--masks masks"),
        (Options(batch_sizes=(4, 1)), "--batch_sizes 4,1"),
        (Options(batch_sizes=(0,)), "--batch_sizes 0"),
        (Options(max_pixels=0), "--max_pixels"),
    ):
        with pytest.raises(UserError, match=name):
            export(detector, CATEGORIES, tmp_path / "no", options)
    experiment, model = tiny_model("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
    boxes_only = Detector(model, experiment)
    for options, name in ((Options(), "--masks"), (Options((), semantic=True), "--semantic")):
        with pytest.raises(UserError, match=name):
            export(boxes_only, CATEGORIES, tmp_path / "no", options)
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        export(boxes_only, CATEGORIES, tmp_path / "file")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "x/variables.data; No space left on device"),
    ],
)
def test_a_full_disk(detector, tmp_path, monkeypatch, error):
    def save(*arguments, **options):
        raise error

    monkeypatch.setattr(ServingModule, "signatures", {})
    monkeypatch.setattr(tf.saved_model, "save", save)
    with pytest.raises(UserError, match=r"--output .*EXPORT cannot be written \(.*No space left on device\)"):
        export(detector, CATEGORIES, tmp_path / "EXPORT")
    assert not (tmp_path / "EXPORT" / "1").exists()


@pytest.mark.parametrize("aside", EXPORTS)
def test_a_second_export_into_a_folder_is_refused(aside, tmp_path):
    """It ends at once, and the files of the first one stay as they are."""
    detector = SimpleNamespace(model=SimpleNamespace(masks=False, semantic_head=None, variables=()))
    half = tmp_path / aside / "saved_model.pb"
    half.parent.mkdir()
    half.write_text("half")
    with lock.hold(tmp_path / LOCK, ""), pytest.raises(UserError, match=rf"{tmp_path} .* by process \d+ on .*--output"):
        EXPORTS[aside](detector, tmp_path)
    assert half.read_text() == "half"
