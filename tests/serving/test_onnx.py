"""The network as ONNX and as TFLite finds what the model finds. A smaller one: converting it is what takes the time."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.data.resize import resize
from htc_tf.errors import UserError
from htc_tf.inference.detector import Detector
from htc_tf.serving.onnx import BINDINGS, export_portable

DOCS = Path(__file__).resolve().parents[2] / "docs" / "serving.md"

CATEGORIES = [{"id": 3, "name": "cat"}]


@pytest.fixture
def detector(request, tiny_model):
    """A Detector as far as the export looks at it, of one stage and one padded shape."""
    experiment, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False", *BINDINGS[request.param])
    return SimpleNamespace(model=model, input=SimpleNamespace(shapes=experiment.eval_input.shapes[:1]))


def run_onnx(path, feed):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def run_tflite(path, feed):
    return tf.lite.Interpreter(str(path)).get_signature_runner()(**feed)


@pytest.mark.parametrize(
    ("detector", "form", "run"), [("onnx", "onnx", run_onnx), ("tflite", "tflite", run_tflite)], indirect=["detector"]
)
def test_it_finds_what_the_model_finds(detector, form, run, drawn_batch, tmp_path):
    if form == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    height, width = detector.input.shapes[0]
    place = export_portable(detector, CATEGORIES, tmp_path, form)
    assert sorted(path.name for path in place.iterdir()) == ["classes.json", f"htc_{height}x{width}.{form}"]
    assert json.loads((place / "classes.json").read_text())["categories"] == CATEGORIES
    images = tf.image.pad_to_bounding_box(drawn_batch.images[:1, :height, :width], 0, 0, height, width)
    sizes = tf.minimum(drawn_batch.sizes[:1], [[height, width]])
    wanted = detector.model.infer(images, sizes)
    found = run(place / f"htc_{height}x{width}.{form}", {"images": images.numpy(), "sizes": sizes.numpy()})
    count = int(found["num_detections"][0])
    assert count == int(tf.reduce_sum(tf.cast(wanted.valid, tf.int32))) > 3
    for name, array, tolerance in (
        ("boxes", wanted.boxes, 1e-3),
        ("scores", wanted.scores, 1e-4),
        ("classes", wanted.classes, 0),
        ("masks_28", wanted.masks, 1e-3),
    ):
        np.testing.assert_allclose(found[name][:, :count], array[:, :count], rtol=0, atol=tolerance, err_msg=name)
    with pytest.raises(UserError, match="is there already"):
        export_portable(detector, CATEGORIES, tmp_path, form)


@pytest.fixture(scope="module")
def snippet():
    """The program in docs/serving.md that asks the ONNX file, for the tiny model's shape."""
    (program,) = re.findall(r"```python\n(import numpy as np, onnxruntime\n.*?)```", DOCS.read_text(), re.DOTALL)
    return program.replace("192", "64")


def run_snippet(snippet, path, network):
    """The program's variables after it ran on an image; its session asks network(images, sizes) -> {name: array}."""

    class Session:
        def __init__(self, path, providers):
            self.names = ("scores", "boxes", "num_detections")

        def get_outputs(self):
            return [SimpleNamespace(name=name) for name in self.names]

        def run(self, names, feed):
            answer = network(**feed)
            return [answer[name] for name in self.names]

    variables = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
        exec(snippet.replace('"photo.jpg"', repr(str(path))), variables)
    return variables


def test_the_documented_program_finds_what_the_detector_finds(snippet, tiny_model, tmp_path):
    experiment, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False", *BINDINGS["onnx"])
    for variable in model.variables:  # surer of itself, so that rounding does not reverse the order of its detections
        if "head/logits" in variable.name and "kernel" in variable.name:
            variable.assign(40 * variable)
    detector = Detector(model, experiment)

    def network(images, sizes):  # as `portable.make_network`, whose file is compared with the model above
        assert images.shape == (1, 64, 64, 3) and images.dtype == np.uint8 and sizes.dtype == np.float32
        found = detector.detect(images, sizes)
        return {"boxes": found.boxes, "scores": found.scores, "num_detections": found.valid.sum(axis=1)}

    rng = np.random.default_rng(0)
    for number, size in enumerate([(150, 210), (300, 120), (40, 50), (64, 64), (1, 90)]):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        variables = run_snippet(snippet, tmp_path / f"{number}.png", network)
        wanted = detector.detect_image(image)
        count = variables["count"]
        assert count == len(wanted.scores) and (count > 3 or number == 4)
        height, width = size
        boxes = np.clip(variables["boxes"][:count], 0, [height, width, height, width])
        np.testing.assert_allclose(boxes, wanted.boxes, atol=0.05)
        np.testing.assert_allclose(variables["scores"][:count], wanted.scores, atol=1e-3)
        other = variables["resize"](image, 37, 53).astype(int) - resize(tf.constant(image), [37, 53]).numpy()
        assert abs(other).max() <= 1 and (other != 0).mean() < 1e-3
