"""A SavedModel with an export's signature as a detector of images: in this process, and in one without gin."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.errors import ModelFailed, UserError
from htc_tf.inference.exported import CLASSES, ExportedDetector, newest_version, read_classes

ROOT = Path(__file__).resolve().parents[2]


class Serving(tf.Module):
    """Detects one square from pixel [2, 3] to the center; its score is the first pixel's red. Two rows are padding."""

    def __init__(self):
        super().__init__()
        self.class_names = tf.constant(["car", "cat"])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, name="images"),
            tf.TensorSpec([None, 2], tf.int32, name="sizes"),
        ],
        autograph=False,
    )
    def predict_image(self, images, sizes):
        center = tf.cast(sizes[0], tf.float32) / 2
        box = tf.concat([[2.0, 3.0], center], 0)
        classes = tf.constant([[1, 0, 0]])
        return {
            "boxes": tf.stack([box, box, box])[tf.newaxis],
            "scores": tf.fill([1, 3], tf.cast(images[0, 0, 0, 0], tf.float32) / 255),
            "classes": classes,
            "class_names": tf.gather(self.class_names, classes),
            "num_detections": tf.constant([1]),
            "sizes": sizes,
            "status": tf.constant([""]),
            "masks_28": tf.ones([1, 3, 28, 28]),
        }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    module = Serving()
    signatures = {"predict_image": module.predict_image}
    for version in ("9", "10"):
        tf.saved_model.save(module, str(folder / version), signatures=signatures)
    return folder


@pytest.fixture
def image():
    image = np.zeros((60, 80, 3), np.uint8)
    image[0, 0] = 204
    return image


def test_detections(exported, image):
    detector = ExportedDetector(exported)
    assert detector.categories == [{"id": 1, "name": "car"}, {"id": 2, "name": "cat"}]
    result = detector.detect_image(image)
    np.testing.assert_array_equal(result.boxes, [[2, 3, 30, 40]])
    assert result.scores == pytest.approx([0.8]) and result.classes == [1]
    assert result.masks[0]["size"] == [60, 80]


def test_a_failure_is_one_line(exported, image):
    detector = ExportedDetector(exported)
    detector.serve = tf.function(lambda images, sizes: {"boxes": tf.gather(sizes, 5)}, autograph=False)
    with pytest.raises(ModelFailed, match=r"^the model failed: indices(\[0\])? = 5 is not in \[0, 1\)$"):
        detector.detect_image(image)
    detector.serve = lambda **inputs: {"status": tf.constant(["sizes: not within images"])}
    with pytest.raises(ModelFailed, match=r"^the model refuses the image: sizes: not within images$"):
        detector.detect_image(image)


def test_versions(exported):
    assert newest_version(exported).name == "10" and newest_version(exported / "9").name == "9"
    assert newest_version(exported / "9" / "variables") is None


def test_a_folder_that_is_no_version(tmp_path):
    for name in ("1", "\u00b2", "x"):  # a superscript two is a digit, but no number
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    assert newest_version(tmp_path).name == "1"


def test_the_classes_beside_the_model(exported):
    path = exported / "9" / CLASSES
    path.parent.mkdir()
    path.write_text(json.dumps({"categories": [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]}))
    assert [row["id"] for row in ExportedDetector(exported / "9").categories] == [3, 17]
    path.write_text(json.dumps({"categories": [{"id": 3, "name": "car"}]}))
    with pytest.raises(UserError, match=r"classes\.json has 1 classes, but the model 2: export the run again"):
        ExportedDetector(exported / "9")


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"categories": 5}', '{"categories": [{"id": 1}]}', "[" * 100_000])
def test_damaged_classes_beside_the_model_are_named(tmp_path, text):
    path = tmp_path / "classes.json"
    path.write_text(text)
    serve = SimpleNamespace(captured_inputs=[])
    with pytest.raises(UserError, match=r"classes\.json is damaged .*; export the run again"):
        ExportedDetector.read_categories(SimpleNamespace(serve=serve), path)


def test_large_classes_beside_the_model_are_not_read(tmp_path):
    path = tmp_path / "classes.json"
    with path.open("wb") as file:
        file.truncate(2**34)  # sparse
    with pytest.raises(UserError, match=r"classes\.json has more than the 16,777,216 bytes that are read"):
        read_classes(path)


def test_folders_without_an_export_are_refused(tmp_path):
    with pytest.raises(UserError, match="no exported model"):
        ExportedDetector(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        ExportedDetector(tmp_path)


THREE_LINES = """
import sys
import htc_tf
assert not {"tensorflow", "gin"} & sys.modules.keys()

model = htc_tf.load(sys.argv[1])
detections = model("image.png")
detections.draw("out.jpg")

assert "gin" not in sys.modules and "htc_tf.models" not in sys.modules
print(detections, detections.masks.sum(), detections.to_coco(7)[0]["bbox"])
"""


def test_three_lines_without_gin(exported, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "image.png")
    command = [sys.executable, "-c", THREE_LINES, str(exported / "10")]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "<Prediction in 80 x 60 pixels: 1 cat; 0 below 30%> 1036 [3.0, 2.0, 37.0, 28.0]\n"
    assert Image.open(tmp_path / "out.jpg").size == (640, 480)
