"""The exported model: its answers through every door equal `Detector`'s, whatever else comes in the same batch."""

import errno
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
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from htc_tf.data import image_io
from htc_tf.data.schema import Image as RecordImage
from htc_tf.data.schema import example
from htc_tf.errors import UserError
from htc_tf.inference.detector import Detector, build_variables
from htc_tf.inference.exported import ExportedDetector
from htc_tf.inference.semantic_map import label_map
from htc_tf.serving.decode import DAMAGED, EMPTY, UNKNOWN
from htc_tf.serving.module import NO_RECORD, NO_SIZE, Options, ServingModule
from htc_tf.serving.warmup import WARMUP, picture_sizes
from htc_tf.serving.write import export

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("NUM_STAGES=1", "IMAGE_MAX_SIDE=96", "ASPECTS=()")  # one stage, a landscape and a portrait shape
CATEGORIES = [{"id": 10 * index, "name": f"thing {index}"} for index in range(8)]
ALL = ("masks_28", "masks_rle_bytes", "masks_png_bytes")


def decide(model):
    """Makes an untrained model sure of itself, so that rounding does not reverse the order of its detections."""
    for variable in model.variables:
        if "head/logits" in variable.name and "kernel" in variable.name and "semantic" not in variable.name:
            variable.assign(40 * variable)


@pytest.fixture(scope="module")
def detector(tiny_model):
    experiment, model = tiny_model(*SMALL)
    decide(model)
    return Detector(model, experiment)


@pytest.fixture(scope="module")
def exported(detector, tiny_experiment, tmp_path_factory):
    """EXPORT/1 of the same weights in a model that was made for several devices, moved after it was written."""
    folder, experiment = tmp_path_factory.mktemp("export"), tiny_experiment(*SMALL)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = experiment.build_model()
        build_variables(model)
    for variable, value in zip(model.variables, detector.model.variables, strict=True):
        assert isinstance(variable, tf.distribute.DistributedValues)
        variable.assign(value)
    mirrored, options = Detector(model, experiment), Options(ALL, semantic=True, batch_sizes=(1, 2))
    with pytest.raises(UserError, match="--xla"):
        export(mirrored, CATEGORIES, folder / "there", options._replace(xla=True))
    version = export(mirrored, CATEGORIES, folder / "there", options)
    assert version == folder / "there" / "1"
    assert [path.name for path in version.parent.iterdir()] == ["1"]
    return Path(shutil.move(version, folder / "here"))


@pytest.fixture(scope="module")
def loaded(exported):
    return ExportedDetector(exported)


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.model.signatures


@pytest.fixture(scope="module")
def pictures():
    """Of both shapes, and of one twice: three of one shape are looked at in two parts."""
    rng = np.random.default_rng(3)
    sizes = ((50, 70), (90, 41), (64, 96), (40, 60), (300, 300))
    return [
        np.repeat(np.repeat(rng.integers(0, 255, (-(-h // 9), -(-w // 9), 3), np.uint8), 9, 0), 9, 1)[:h, :w]
        for h, w in sizes
    ]


def png(image):
    return tf.io.encode_png(image).numpy()


def check(answer, row, detector, image, box=1e-3):
    """A row of an answer is what the Detector finds in the picture."""
    found = detector.detect_image(image)
    count = answer["num_detections"][row]
    assert answer["status"][row] == b"" and tuple(answer["sizes"][row]) == image.shape[:2]
    assert count == len(found.scores) > 3
    np.testing.assert_allclose(answer["boxes"][row][:count], found.boxes, atol=box)
    np.testing.assert_allclose(answer["scores"][row][:count], found.scores, atol=1e-5)
    np.testing.assert_array_equal(answer["classes"][row][:count], found.classes)
    assert answer["class_names"][row].tolist() == [f"thing {i}".encode() for i in found.classes] + [b""] * (10 - count)
    assert answer["masks_rle_bytes"][row][:count].tolist() == [run["counts"].encode() for run in found.masks]
    return found


def ask(signature, **inputs):
    return {name: value.numpy() for name, value in signature(**inputs).items()}


def test_a_batch_of_everything(signatures, detector, pictures):
    """Pictures of several shapes and bad ones between them: each row is as if it were alone."""
    jpeg = io.BytesIO()
    Image.fromarray(pictures[0]).save(jpeg, "JPEG")
    content = [png(pictures[0]), b"", png(pictures[1]), jpeg.getvalue()[:-40], png(pictures[2]), png(pictures[3])]
    answer = ask(signatures["serving_default"], image_bytes=tf.constant([*content, b"text", png(pictures[4])]))
    assert {value.dtype.name for value in answer.values()} == {"float32", "int32", "object"}
    for row, picture in ((0, 0), (2, 1), (4, 2), (5, 3), (7, 4)):
        image = pictures[picture]
        found = check(answer, row, detector, image, box=1e-4)
        for file, run, mask in zip(answer["masks_png_bytes"][row], found.masks, answer["masks_28"][row], strict=False):
            drawn = np.asarray(Image.open(io.BytesIO(file)))
            assert drawn.shape == image.shape[:2] and set(np.unique(drawn)) <= {0, 255} and mask.max() <= 1
            np.testing.assert_array_equal(drawn == 255, coco_mask.decode(run))
        labels = np.asarray(Image.open(io.BytesIO(answer["semantic_png_bytes"][row])))
        np.testing.assert_array_equal(labels, label_map(detector, image))
    for row, status in ((1, EMPTY), (3, DAMAGED), (6, UNKNOWN)):
        assert answer["status"][row].decode() == status
        assert not any(answer[name][row].any() for name in ("boxes", "scores", "num_detections", "sizes", "masks_28"))
        assert set(answer["class_names"][row]) | set(answer["masks_rle_bytes"][row]) == {b""}


def test_no_picture_at_all(signatures):
    empty = ask(signatures["predict_bytes"], image_bytes=tf.zeros([0], tf.string))
    assert empty["boxes"].shape == (0, 10, 4) and empty["masks_rle_bytes"].shape == (0, 10)
    bad = ask(signatures["predict_bytes"], image_bytes=tf.constant(["a", "b"]))
    assert bad["status"].tolist() == [UNKNOWN.encode()] * 2 and not bad["num_detections"].any()


SLIVERS = [(1, 1), (1, 2), (2, 1), (2, 3), (1, 300), (300, 1), (2, 200), (5, 300), (400, 5), (16, 16), (20, 1000)]


def test_small_and_thin_pictures(signatures, detector):
    """Their objects are often thinner than a pixel: each row is as if it were alone, and as the Detector has it."""
    rng = np.random.default_rng(11)
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in SLIVERS]
    answer = ask(signatures["serving_default"], image_bytes=tf.constant([png(image) for image in images]))
    for row, image in enumerate(images):
        found, count = detector.detect_image(image), answer["num_detections"][row]
        assert answer["status"][row] == b"" and tuple(answer["sizes"][row]) == image.shape[:2]
        assert count == len(found.scores) and len(answer["semantic_png_bytes"][row])
        np.testing.assert_allclose(answer["boxes"][row][:count], found.boxes, atol=1e-3)
        assert answer["masks_rle_bytes"][row][:count].tolist() == [run["counts"].encode() for run in found.masks]


def test_pixels(signatures, detector, pictures):
    images = np.full((4, 300, 300, 3), 77, np.uint8)
    for row, image in enumerate(pictures[1:4]):
        images[row, : image.shape[0], : image.shape[1]] = image
    sizes = tf.constant([*(image.shape[:2] for image in pictures[1:4]), (301, 300)])
    answer = ask(signatures["predict_image"], images=images, sizes=sizes)
    for row, image in enumerate(pictures[1:4]):
        check(answer, row, detector, image, box=1e-4)
    assert answer["status"][3].decode() == NO_SIZE and answer["num_detections"][3] == 0


def test_records(signatures, detector, pictures):
    image = pictures[3]
    record = example(RecordImage(png(image), "png", *image.shape[:2], "3.png", 3), [])
    other = tf.train.Example()
    other.features.feature["image/encoded"].int64_list.value.append(3)
    strings = tf.constant([record, b"no record", other.SerializeToString()])
    answer = ask(signatures["predict_example"], examples=strings)
    check(answer, 0, detector, image, box=1e-4)
    assert [status.decode() for status in answer["status"][1:]] == [NO_RECORD] * 2


def test_upright(signatures, detector, pictures):
    """A camera held on its side: the answer is about the picture as people see it."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pictures[0]).save(file, "JPEG", exif=exif)
    answer = ask(signatures["serving_default"], image_bytes=tf.constant([file.getvalue()]))
    check(answer, 0, detector, image_io.decode(file.getvalue()), box=1e-4)


def test_from_python(loaded, detector, pictures):
    assert loaded.categories == CATEGORIES
    found, wanted = loaded.detect_image(pictures[1]), detector.detect_image(pictures[1])
    assert found.masks == wanted.masks
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-4)
    np.testing.assert_array_equal(loaded.label_map(pictures[1]), label_map(detector, pictures[1]))


def test_without_tensorflows_python(exported, detector, pictures, tmp_path):
    """By TensorFlow's C API, as TensorFlow Serving loads it; its graph optimiser is on, so the last bits may differ."""
    sizes = np.array([pictures[2].shape[:2]], np.int32)
    requests = {
        "0/serving_default/image_bytes": np.array(
            [png(image) + b"." for image in (*pictures[:2], np.zeros((0, 0, 3)))[:2]] + [b"bad."]
        ),
        "1/predict_image/images": pictures[2][np.newaxis],
        "1/predict_image/sizes": sizes,
    }
    np.savez(tmp_path / "requests.npz", **requests)
    files = [str(exported), str(tmp_path / "requests.npz"), str(tmp_path / "answers.npz")]
    done = subprocess.run([sys.executable, ROOT / "tests" / "c_api.py", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = np.load(files[2])
    for request, rows in ((0, pictures[:2]), (1, pictures[2:3])):
        answer = {name.split("/")[1]: value for name, value in answers.items() if name.startswith(f"{request}/")}
        for name, value in answer.items():
            if value.dtype.kind == "S":
                answer[name] = np.array([text[:-1] for text in value.ravel().tolist()], object).reshape(value.shape)
        for row, image in enumerate(rows):
            check(answer, row, detector, image)
    assert answers["0/status"][2] == UNKNOWN.encode() + b"."


def operations(folder):
    """The names of all operations in a SavedModel, and its functions."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (graph,) = [meta.graph_def for meta in model.meta_graphs]
    functions = {function.signature.name: function for function in graph.library.function}
    nodes = [*graph.node, *(node for function in functions.values() for node in function.node_def)]
    return {node.op for node in nodes} - set(functions), functions


def test_core_operations_only(exported):
    used, functions = operations(exported)
    assert {"CropAndResize", "CombinedNonMaxSuppression", "DecodeJpeg"} <= used
    unknown = {name for name in used if op_def_registry.get(name) is None}
    assert not unknown
    assert not {
        name for name in used if "PyFunc" in name or "Addons" in name or ">" in name or "GeneratorDataset" in name
    }
    assert not any("_XlaMustCompile" in function.attr for function in functions.values())
    # Wherever it was made, it knows no device but the CPU, and that only where pixels and strings are.
    assert b"GPU:" not in (exported / "saved_model.pb").read_bytes()


def test_warmup(exported, detector):
    """Read back by TensorFlow's own protobuf reader, from a description of the messages that is written here again."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="warmup.proto", package="w", syntax="proto3")
    file.dependency.append("tensorflow/core/framework/tensor.proto")

    def message(name, *rows):
        made = file.message_type.add(name=name)
        for field, number, kind, repeated in rows:
            is_message = kind.startswith(".")
            made.field.add(
                name=field,
                number=number,
                label=types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL,
                type=types.TYPE_MESSAGE if is_message else types.TYPE_STRING,
                type_name=kind if is_message else None,
            )
        return made

    message("Spec", ("name", 1, "string", False), ("signature_name", 3, "string", False))
    request = message("Request", ("model_spec", 1, ".w.Spec", False), ("inputs", 2, ".w.Request.InputsEntry", True))
    entry = request.nested_type.add(name="InputsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=types.LABEL_OPTIONAL, type=types.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=types.LABEL_OPTIONAL, type=types.TYPE_MESSAGE, type_name=".tensorflow.TensorProto"
    )
    message("Predict", ("request", 1, ".w.Request", False))
    message("Log", ("predict_log", 6, ".w.Predict", False))
    pool = descriptor_pool.Default()
    pool.Add(file)
    log = message_factory.GetMessageClass(pool.FindMessageTypeByName("w.Log"))

    seen = []
    for record in tf.data.TFRecordDataset(str(exported / WARMUP)).as_numpy_iterator():
        request = log.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        first = next(iter(inputs.values()))
        shape = None
        if "image_bytes" in inputs:
            images, _ = detector.prepare(tf.io.decode_png(first[0], 3).numpy())
            shape = tuple(images.shape[1:3])
        seen.append((request.model_spec.signature_name, tuple(sorted(inputs)), len(first), shape))
    default = {("serving_default", ("image_bytes",), n, shape) for n in (1, 2) for shape in detector.input.shapes}
    assert default <= set(seen) and len(seen) == len(default) + 3
    assert {row[0] for row in seen} == {"serving_default", "predict_bytes", "predict_image", "predict_example"}


@pytest.mark.parametrize("params", [(), ("IMAGE_MIN_SIDE=800", "IMAGE_MAX_SIDE=1333"), ("IMAGE_MIN_SIDE=750",)])
def test_warmup_reaches_every_shape(tiny_experiment, params):
    bounds = tiny_experiment("IMAGE_MAX_SIDE=1000", *params).eval_input
    assert len(picture_sizes(bounds)) == len(bounds.shapes)


def test_refuses(detector, tmp_path, tiny_model):
    for options, name in (
        (Options(("masks",)), "--masks masks"),
        (Options(batch_sizes=(4, 1)), "--batch_sizes 4,1"),
        (Options(batch_sizes=(0,)), "--batch_sizes 0"),
        (Options(max_pixels=0), "--max_pixels"),
    ):
        with pytest.raises(UserError, match=name):
            export(detector, CATEGORIES, tmp_path / "no", options)
    experiment, model = tiny_model("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
    boxes = Detector(model, experiment)
    for options, name in ((Options(), "--masks"), (Options((), semantic=True), "--semantic")):
        with pytest.raises(UserError, match=name):
            export(boxes, CATEGORIES, tmp_path / "no", options)
    assert not (tmp_path / "no").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        export(boxes, CATEGORIES, tmp_path / "file")


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


def test_compiled(tiny_model, pictures):
    """Under XLA the model of a padded shape is one computation, for each batch size that was named, and answers as
    the other does."""
    small = ("NUM_STAGES=1", "MASKS=False", "SEMANTIC=False")
    experiment, model = tiny_model(*small)
    decide(model)
    found = Detector(model, experiment).detect_image(pictures[0])
    experiment, compiled = tiny_model(*small, "XLA=True")
    decide(compiled)
    module = ServingModule(Detector(compiled, experiment), list("abcdefgh"), Options((), batch_sizes=(2,), xla=True))
    answer = ask(module.predict_image, images=pictures[0][np.newaxis], sizes=tf.constant([pictures[0].shape[:2]]))
    count = len(found.scores)
    assert answer["num_detections"][0] == count > 3
    np.testing.assert_allclose(answer["boxes"][0][:count], found.boxes, atol=1e-3)
    np.testing.assert_allclose(answer["scores"][0][:count], found.scores, atol=1e-5)
    library = module.signatures["predict_image"].graph.as_graph_def().library.function
    whole = [function.node_def for function in library if function.attr["_XlaMustCompile"].b]
    assert any(node.op == "Conv2D" for nodes in whole for node in nodes)
