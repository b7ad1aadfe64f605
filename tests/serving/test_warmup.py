"""Warm-up requests of an export: one for each padded shape and batch size, in TensorFlow Serving's own format."""

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from htc_tf.data.input import Input
from htc_tf.data.preprocessing import choose_shape, fitted_size
from htc_tf.serving.warmup import image_sizes, write_warmup


@pytest.fixture
def prediction_log():
    """PredictionLog, declared independently of `serving.messages` and with TensorFlow's own TensorProto."""
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
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("w.Log"))


def test_requests(prediction_log, tiny_experiment, tmp_path):
    """Every padded shape is warmed up with every batch size by serving_default, and every other signature once."""
    settings = tiny_experiment("IMAGE_MAX_SIDE=96", "ASPECTS=()").eval_input  # a landscape and a portrait shape
    write_warmup(tmp_path / "warmup", settings, (1, 2), 50_000_000)
    seen = []
    for record in tf.data.TFRecordDataset(str(tmp_path / "warmup")).as_numpy_iterator():
        request = prediction_log.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        first = next(iter(inputs.values()))
        shape = None
        if "image_bytes" in inputs:
            fitted = fitted_size(*tf.io.decode_png(first[0]).shape[:2], settings.min_side, settings.max_side)
            shape = settings.shapes[choose_shape(fitted, settings.shapes)]
        seen.append((request.model_spec.signature_name, tuple(sorted(inputs)), len(first), shape))
    default = {("serving_default", ("image_bytes",), n, shape) for n in (1, 2) for shape in settings.shapes}
    assert default <= set(seen) and len(seen) == len(default) + 3
    assert {row[0] for row in seen} == {"serving_default", "predict_bytes", "predict_image", "predict_example"}


@pytest.mark.parametrize("max_pixels", [20_000, 300])
def test_warmup_is_within_max_pixels(tiny_experiment, max_pixels):
    """The model refuses larger files before the network runs, so that nothing would be warmed up."""
    settings = tiny_experiment("IMAGE_MIN_SIDE=800", "IMAGE_MAX_SIDE=1333").eval_input
    sizes = image_sizes(settings, max_pixels)
    fitted = [fitted_size(*map(tf.constant, size), settings.min_side, settings.max_side) for size in sizes]
    assert [int(choose_shape(size, settings.shapes)) for size in fitted] == list(range(len(settings.shapes)))
    assert all(height * width <= max_pixels for height, width in sizes)


@pytest.mark.parametrize("params", [(), ("IMAGE_MIN_SIDE=800", "IMAGE_MAX_SIDE=1333"), ("IMAGE_MIN_SIDE=750",)])
def test_warmup_reaches_every_shape(tiny_experiment, params):
    settings = tiny_experiment("IMAGE_MAX_SIDE=1000", *params).eval_input
    assert len(image_sizes(settings, 50_000_000)) == len(settings.shapes)


def test_warmup_reaches_shapes_of_a_large_divisor():
    settings = Input(1, 800, 1333, 4, training=False, size_divisor=256)
    assert len(image_sizes(settings, 50_000_000)) == len(settings.shapes) == 4
