"""The exported model: the outputs of every signature equal the Detector's, whatever else is in the same batch."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from htc_tf.data import image_io
from htc_tf.data.schema import Image as RecordImage
from htc_tf.data.schema import example
from htc_tf.errors import UserError
from htc_tf.inference.detector import Detector
from htc_tf.inference.exported import ExportedDetector
from htc_tf.models import test_time_augmentation
from htc_tf.serving.decode import DAMAGED, EMPTY, UNKNOWN
from htc_tf.serving.module import NO_RECORD, NO_SIZE, Options, ServingModule, make_predict_fn
from htc_tf.serving.warmup import WARMUP
from htc_tf.serving.write import export
from tests.serving.exports import CATEGORIES, MASKS, check_core_operations, draw_samples, read_graph, sharpen
from tests.slow import slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("NUM_STAGES=1", "IMAGE_MAX_SIDE=96", "ASPECTS=()")  # one stage, a landscape and a portrait shape


@pytest.fixture(scope="module")
def detector(tiny_model):
    experiment, model = tiny_model(*SMALL)
    sharpen(model)
    return Detector(model, experiment)


@pytest.fixture(scope="module")
def exported(detector, tiny_experiment, tmp_path_factory):
    """EXPORT/1 of a model with the same weights, built under a MirroredStrategy, and moved after it was written."""
    folder, experiment = tmp_path_factory.mktemp("export"), tiny_experiment(*SMALL)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = experiment.build_model()
        model.build_variables()
    for variable, value in zip(model.variables, detector.model.variables, strict=True):
        assert isinstance(variable, tf.distribute.DistributedValues)
        variable.assign(value)
    mirrored, options = Detector(model, experiment), Options(MASKS, semantic=True, batch_sizes=(1, 2))
    with pytest.raises(UserError, match="--xla"):
        export(mirrored, CATEGORIES, folder / "there", options._replace(xla=True))
    version = export(mirrored, CATEGORIES, folder / "there", options)
    assert version == folder / "there" / "1"
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    return Path(shutil.move(version, folder / "here"))


def test_files_beside_the_model(exported, detector):
    """A warm-up request for each shape and batch size, and for each of the other signatures."""
    records = list(tf.data.TFRecordDataset(str(exported / WARMUP)))
    assert len(records) == 2 * len(detector.input.shapes) + 3


@pytest.fixture(scope="module")
def loaded(exported):
    return ExportedDetector(exported)


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.model.signatures


@pytest.fixture(scope="module")
def samples():
    return draw_samples()


def png(image):
    return tf.io.encode_png(image).numpy()


def check(outputs, row, detector, image, box=1e-3):
    """Checks that a row of the outputs is what the Detector finds in the image."""
    found = detector.detect_image(image)
    count = outputs["num_detections"][row]
    assert outputs["status"][row] == b"" and tuple(outputs["sizes"][row]) == image.shape[:2]
    assert count == len(found.scores) > 3
    np.testing.assert_allclose(outputs["boxes"][row][:count], found.boxes, atol=box)
    np.testing.assert_allclose(outputs["scores"][row][:count], found.scores, atol=1e-5)
    np.testing.assert_array_equal(outputs["classes"][row][:count], found.classes)
    assert outputs["class_names"][row].tolist() == [f"thing {i}".encode() for i in found.classes] + [b""] * (10 - count)
    assert outputs["masks_rle_bytes"][row][:count].tolist() == [run["counts"].encode() for run in found.masks]
    return found


def call(signature, **inputs):
    return {name: value.numpy() for name, value in signature(**inputs).items()}


def test_a_batch_of_everything(signatures, detector, samples):
    """Images of several shapes with damaged files between them: each row is as if it were alone."""
    jpeg = io.BytesIO()
    Image.fromarray(samples[0]).save(jpeg, "JPEG")
    content = [png(samples[0]), b"", png(samples[1]), jpeg.getvalue()[:-40], png(samples[2]), png(samples[3])]
    outputs = call(signatures["serving_default"], image_bytes=tf.constant([*content, b"text", png(samples[4])]))
    assert {value.dtype.name for value in outputs.values()} == {"float32", "int32", "object"}
    for row, index in ((0, 0), (2, 1), (4, 2), (5, 3), (7, 4)):
        image = samples[index]
        found = check(outputs, row, detector, image, box=1e-4)
        for run, mask in zip(found.masks, outputs["masks_28"][row], strict=False):
            assert coco_mask.decode(run).shape == image.shape[:2] and 0 < mask.max() <= 1
        labels = np.asarray(Image.open(io.BytesIO(outputs["semantic_png_bytes"][row])))
        np.testing.assert_array_equal(labels, detector.label_map(image))
    for row, status in ((1, EMPTY), (3, DAMAGED), (6, UNKNOWN)):
        assert outputs["status"][row].decode() == status
        assert not any(outputs[name][row].any() for name in ("boxes", "scores", "num_detections", "sizes", "masks_28"))
        assert set(outputs["class_names"][row]) | set(outputs["masks_rle_bytes"][row]) == {b""}


def test_no_image_at_all(signatures):
    empty = call(signatures["predict_bytes"], image_bytes=tf.zeros([0], tf.string))
    assert empty["boxes"].shape == (0, 10, 4) and empty["masks_rle_bytes"].shape == (0, 10)
    bad = call(signatures["predict_bytes"], image_bytes=tf.constant(["a", "b"]))
    assert bad["status"].tolist() == [UNKNOWN.encode()] * 2 and not bad["num_detections"].any()


SLIVERS = [(1, 1), (1, 2), (2, 1), (2, 3), (1, 300), (300, 1), (2, 200), (5, 300), (400, 5), (16, 16), (20, 1000)]


def test_small_and_thin_images(signatures, detector):
    """Objects thinner than a pixel: each row is as if it were alone, and as the Detector has it."""
    rng = np.random.default_rng(11)
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in SLIVERS]
    outputs = call(signatures["serving_default"], image_bytes=tf.constant([png(image) for image in images]))
    for row, image in enumerate(images):
        found, count = detector.detect_image(image), outputs["num_detections"][row]
        assert outputs["status"][row] == b"" and tuple(outputs["sizes"][row]) == image.shape[:2]
        assert count == len(found.scores) and len(outputs["semantic_png_bytes"][row])
        np.testing.assert_allclose(outputs["boxes"][row][:count], found.boxes, atol=1e-3)
        assert outputs["masks_rle_bytes"][row][:count].tolist() == [run["counts"].encode() for run in found.masks]


def test_pixels(signatures, detector, samples):
    images = np.full((4, 300, 300, 3), 77, np.uint8)
    for row, image in enumerate(samples[1:4]):
        images[row, : image.shape[0], : image.shape[1]] = image
    sizes = tf.constant([*(image.shape[:2] for image in samples[1:4]), (301, 300)])
    outputs = call(signatures["predict_image"], images=images, sizes=sizes)
    for row, image in enumerate(samples[1:4]):
        check(outputs, row, detector, image, box=1e-4)
    assert outputs["status"][3].decode() == NO_SIZE and outputs["num_detections"][3] == 0


def test_records(signatures, detector, samples):
    image = samples[3]
    record = example(RecordImage(png(image), "png", *image.shape[:2], "3.png", 3), [])
    other = tf.train.Example()
    other.features.feature["image/encoded"].int64_list.value.append(3)
    strings = tf.constant([record, b"no record", other.SerializeToString()])
    outputs = call(signatures["predict_example"], examples=strings)
    check(outputs, 0, detector, image, box=1e-4)
    assert [status.decode() for status in outputs["status"][1:]] == [NO_RECORD] * 2


def test_upright(signatures, detector, samples):
    """The outputs refer to the upright image, if the camera was held on its side."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(samples[0]).save(file, "JPEG", exif=exif)
    outputs = call(signatures["serving_default"], image_bytes=tf.constant([file.getvalue()]))
    check(outputs, 0, detector, image_io.decode(file.getvalue()), box=1e-4)


def test_from_python(loaded, detector, samples):
    assert loaded.categories == CATEGORIES
    found, wanted = loaded.detect_image(samples[1]), detector.detect_image(samples[1])
    assert found.masks == wanted.masks
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-4)
    np.testing.assert_array_equal(loaded.label_map(samples[1]), detector.label_map(samples[1]))


def test_without_tensorflows_python(exported, detector, samples, tmp_path):
    """By TensorFlow's C API, as TensorFlow Serving loads it; its graph optimizer is on, so the last bits may differ."""
    sizes = np.array([samples[2].shape[:2]], np.int32)
    requests = {
        "0/serving_default/image_bytes": np.array(
            [png(image) + b"." for image in (*samples[:2], np.zeros((0, 0, 3)))[:2]] + [b"bad."]
        ),
        "1/predict_image/images": samples[2][np.newaxis],
        "1/predict_image/sizes": sizes,
    }
    np.savez(tmp_path / "requests.npz", **requests)
    files = [str(exported), str(tmp_path / "requests.npz"), str(tmp_path / "outputs.npz")]
    done = subprocess.run([sys.executable, ROOT / "tests" / "c_api.py", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    arrays = np.load(files[2])
    for request, rows in ((0, samples[:2]), (1, samples[2:3])):
        outputs = {name.split("/")[1]: value for name, value in arrays.items() if name.startswith(f"{request}/")}
        for name, value in outputs.items():
            if value.dtype.kind == "S":
                outputs[name] = np.array([text[:-1] for text in value.ravel().tolist()], object).reshape(value.shape)
        for row, image in enumerate(rows):
            check(outputs, row, detector, image)
    assert arrays["0/status"][2] == UNKNOWN.encode() + b"."


@pytest.mark.parametrize(
    ("views", "semantic", "passes"), [(None, True, 1), (2, True, 3), *slow((None, False, 1), (2, False, 2))]
)
def test_passes_of_the_network(tiny_model, monkeypatch, views, semantic, passes):
    """Detections and semantic map come of one pass; with test-time augmentation each view is one."""
    _, model = tiny_model("NUM_STAGES=1")
    model.test_time = views and test_time_augmentation.TestTimeAugmentation(scales=(1.0,), flip=True)
    traced, forward = [], type(model).call
    monkeypatch.setattr(type(model), "call", lambda *inputs: traced.append(1) or forward(*inputs))
    make_predict_fn(model, (64, 64), Options(semantic=semantic)).get_concrete_function()
    assert len(traced) == passes


def test_core_operations_only(exported):
    check_core_operations(read_graph(exported), {"CropAndResize", "CombinedNonMaxSuppression", "DecodeJpeg"})
    # Wherever it was exported, it names no device but the CPU, and that only where pixels and strings are.
    assert b"GPU:" not in (exported / "saved_model.pb").read_bytes()


def test_compiled(tiny_model, samples):
    """Under XLA the model of a padded shape is one computation per batch size, with the same outputs."""
    small = ("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
    experiment, model = tiny_model(*small)
    sharpen(model)
    found = Detector(model, experiment).detect_image(samples[0])
    experiment, compiled = tiny_model(*small, "XLA=True")
    sharpen(compiled)
    module = ServingModule(Detector(compiled, experiment), list("abcdefgh"), Options((), batch_sizes=(2,), xla=True))
    outputs = call(module.predict_image, images=samples[0][np.newaxis], sizes=tf.constant([samples[0].shape[:2]]))
    count = len(found.scores)
    assert outputs["num_detections"][0] == count > 3
    np.testing.assert_allclose(outputs["boxes"][0][:count], found.boxes, atol=1e-3)
    np.testing.assert_allclose(outputs["scores"][0][:count], found.scores, atol=1e-5)
    library = module.signatures["predict_image"].graph.as_graph_def().library.function
    whole = [function.node_def for function in library if function.attr["_XlaMustCompile"].b]
    assert any(node.op == "Conv2D" for nodes in whole for node in nodes)
