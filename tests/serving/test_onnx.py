"""ONNX export: the converted network finds what the model finds. Conversion is slow: `make test` converts the toy."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.data.preprocessing import resize
from htc_tf.errors import UserError
from htc_tf.inference.detector import Detector
from htc_tf.serving.onnx import BINDINGS, export_onnx
from tests.slow import slow
from tests.toy_detector import ToyDetector

DOCS = Path(__file__).resolve().parents[2] / "docs" / "serving.md"

CATEGORIES = [{"id": 3, "name": "cat"}]


@pytest.mark.parametrize(("network", "fewest"), [("toy", 1), *slow(("detector", 4))])
def test_it_finds_what_the_model_finds(tiny_model, drawn_batch, tmp_path, network, fewest):
    """The ONNX file of one stage and one padded shape, run by onnxruntime."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    if network == "toy":
        model = ToyDetector(None)
        model.build_variables()
    else:
        _, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False", *BINDINGS)
    height, width = drawn_batch.images.shape[1:3]
    # A Detector, as far as the export uses it.
    detector = SimpleNamespace(model=model, input=SimpleNamespace(shapes=[(height, width)]))
    place = export_onnx(detector, CATEGORIES, tmp_path)
    assert sorted(path.name for path in place.iterdir()) == ["classes.json", f"htc_{height}x{width}.onnx"]
    assert json.loads((place / "classes.json").read_text())["categories"] == CATEGORIES
    images, sizes = drawn_batch.images[:1], drawn_batch.sizes[:1]
    wanted = model.infer(images, sizes)
    path = place / f"htc_{height}x{width}.onnx"
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"images": images.numpy(), "sizes": sizes.numpy()})
    found = dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))
    count = int(found["num_detections"][0])
    assert count == int(tf.reduce_sum(tf.cast(wanted.valid, tf.int32))) >= fewest
    for name, array, tolerance in (
        ("boxes", wanted.boxes, 1e-3),
        ("scores", wanted.scores, 1e-4),
        ("classes", wanted.classes, 0),
        ("masks_28", wanted.masks, 1e-3),
    ):
        np.testing.assert_allclose(found[name][:, :count], array[:, :count], rtol=0, atol=tolerance, err_msg=name)
    with pytest.raises(UserError, match="exists already"):
        export_onnx(detector, CATEGORIES, tmp_path)


def test_a_file_in_place_of_the_output_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output .*file cannot be written \(File exists\)"):
        export_onnx(None, CATEGORIES, tmp_path / "file")


@pytest.fixture(scope="module")
def snippet():
    """The program in docs/serving.md that runs the ONNX file, for the tiny model's padded shape."""
    (program,) = re.findall(r"```python\n(import numpy as np, onnxruntime\n.*?)```", DOCS.read_text(), re.DOTALL)
    return program.replace("192", "64")


def run_snippet(snippet, path, network):
    """Runs the program on an image, with a session that calls network(images, sizes), and returns its variables."""

    class Session:
        def __init__(self, path, providers):
            self.names = ("scores", "boxes", "num_detections")

        def get_outputs(self):
            return [SimpleNamespace(name=name) for name in self.names]

        def run(self, names, feed):
            outputs = network(**feed)
            return [outputs[name] for name in self.names]

    variables = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
        exec(snippet.replace('"photo.jpg"', repr(str(path))), variables)
    return variables


def test_the_documented_program_finds_what_the_detector_finds(snippet, tiny_model, tmp_path):
    experiment, model = tiny_model("NUM_STAGES=1", "SEMANTIC=False", *BINDINGS)
    for variable in model.variables:  # so that rounding does not reverse the order of the detections
        if "head/logits" in variable.name and "kernel" in variable.name:
            variable.assign(40 * variable)
    detector = Detector(model, experiment)

    def network(images, sizes):  # as `onnx.make_network`, whose file is compared with the model above
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
