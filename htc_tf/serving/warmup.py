"""Requests that a model server sends itself before it says that it is ready, so that the first user does not wait.

Before: `serving.write`. After: TensorFlow Serving, which replays assets.extra/tf_serving_warmup_requests: a TFRecord
file of PredictionLogs (https://www.tensorflow.org/tfx/serving/saved_model_warmup). Its messages are written here field
by field, since the package that defines them is no dependency.
"""

import tensorflow as tf

from htc_tf.data.resize import choose_shape, fitted_size

WARMUP = "assets.extra/tf_serving_warmup_requests"
# tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto
PREDICT_LOG, REQUEST = 6, 1  # of PredictionLog, PredictLog
MODEL_SPEC, INPUTS = 1, 2  # of PredictRequest
NAME, SIGNATURE = 1, 3  # of ModelSpec
KEY, VALUE = 1, 2  # of an entry of a map


def write_warmup(path, bounds, batch_sizes, name="htc"):
    """A request for each padded shape and batch size by serving_default, and one for each of the other signatures.

    Args:
        path: of the file.
        bounds: a `data.input.Input`: its sides and shapes.
        batch_sizes: ints.
        name: of the model in the server; the server looks at its own.
    """
    pictures = [blank_png(*size) for size in picture_sizes(bounds)]
    requests = [("serving_default", {"image_bytes": [picture] * n}) for picture in pictures for n in batch_sizes]
    record = tf.train.Example()
    record.features.feature["image/encoded"].bytes_list.value.append(pictures[0])
    images, sizes = tf.zeros([1, 8, 8, 3], tf.uint8), tf.constant([[8, 8]])
    requests += [
        ("predict_bytes", {"image_bytes": pictures[:1]}),
        ("predict_image", {"images": images, "sizes": sizes}),
        ("predict_example", {"examples": [record.SerializeToString()]}),
    ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            writer.write(prediction_log(name, signature, inputs))


def picture_sizes(bounds):
    """For each padded shape a (height, width) that comes to lie in it, where there is one."""
    sizes = []
    for index, (height, width) in enumerate(bounds.shapes):
        # A little less long than the shape: what is as long as it may be shorter after rounding, never longer.
        for size in ((height, width), (height - 1, width - 1), (height, width - 32), (height - 32, width)):
            fitted = fitted_size(*map(tf.constant, size), bounds.min_side, bounds.max_side)
            if min(size) > 0 and int(choose_shape(fitted, bounds.shapes)) == index:
                sizes.append(size)
                break
    return sizes


def blank_png(height, width):
    return tf.io.encode_png(tf.fill([height, width, 1], tf.constant(128, tf.uint8))).numpy()


def prediction_log(name, signature, inputs):
    """A serialised PredictionLog of a request; inputs: {name: what tf.make_tensor_proto takes}."""
    request = field(MODEL_SPEC, field(NAME, name.encode()) + field(SIGNATURE, signature.encode()))
    for key, value in inputs.items():
        value = tf.make_tensor_proto(value).SerializeToString()
        request += field(INPUTS, field(KEY, key.encode()) + field(VALUE, value))
    return field(PREDICT_LOG, field(REQUEST, request))


def field(number, content):
    """A field of bytes in protobuf's wire format: https://protobuf.dev/programming-guides/encoding."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number):
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
