"""Two exports at once into one folder: the second ends at once, and the first loses nothing."""

from types import SimpleNamespace

import pytest

from htc_tf import lock
from htc_tf.errors import UserError
from htc_tf.serving.module import Options
from htc_tf.serving.onnx import export_portable
from htc_tf.serving.write import LOCK, export

EXPORTS = {
    ".unfinished": lambda detector, folder: export(detector, [], folder, Options(masks=())),
    ".unfinished_onnx": lambda detector, folder: export_portable(detector, [], folder, "onnx"),
}


@pytest.mark.parametrize("aside", EXPORTS)
def test_a_second_export_into_a_folder_is_refused(aside, tmp_path):
    detector = SimpleNamespace(model=SimpleNamespace(masks=False, semantic_head=None, variables=()))
    half = tmp_path / aside / "saved_model.pb"
    half.parent.mkdir()
    half.write_text("half")
    with lock.hold(tmp_path / LOCK, ""), pytest.raises(UserError, match=rf"{tmp_path} .* by process \d+ on .*--output"):
        EXPORTS[aside](detector, tmp_path)
    assert half.read_text() == "half"
