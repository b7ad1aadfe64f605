"""Warm-up requests: a model server sends them to itself before it reports that it is ready.

TensorFlow Serving replays assets.extra/tf_serving_warmup_requests, a TFRecord file of PredictionLogs
(https://www.tensorflow.org/tfx/serving/saved_model_warmup), so that no user waits for the first compilation.
"""

import math

import numpy as np
import tensorflow as tf

from htc_tf.data.preprocessing import choose_shape, fitted_size
from htc_tf.serving.messages import prediction_log
from htc_tf.structures import LARGEST_STRIDE

WARMUP = "assets.extra/tf_serving_warmup_requests"
MODEL = "htc"  # the model in the requests; the server ignores its name


def write_warmup(path, settings, batch_sizes, max_pixels):
    """Writes a request for each padded shape and batch size to serving_default, and one to each other signature.

    Args:
        path: the file's path.
        settings: a `data.input.Input` with the sides and shapes of the images.
        batch_sizes: ints.
        max_pixels: int; the model refuses larger files.
    """
    files = [blank_png(*size) for size in image_sizes(settings, max_pixels)]
    requests = [("serving_default", bytes_array("image_bytes", [file] * n)) for file in files for n in batch_sizes]
    record = tf.train.Example()
    record.features.feature["image/encoded"].bytes_list.value.append(files[0])
    pixels = {"images": np.zeros([1, 8, 8, 3], np.uint8), "sizes": np.array([[8, 8]], np.int32)}
    requests += [
        ("predict_bytes", bytes_array("image_bytes", files[:1])),
        ("predict_image", pixels),
        ("predict_example", bytes_array("examples", [record.SerializeToString()])),
    ]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            writer.write(prediction_log(MODEL, signature, inputs).SerializeToString())


def image_sizes(settings, max_pixels):
    """Returns a (height, width) of at most `max_pixels` for each padded shape which is padded to it, if one exists."""
    sizes = []
    for index, (height, width) in enumerate(settings.shapes):
        # An image as long as the shape may be shorter after rounding, but never longer: slightly shorter ones, too.
        candidates = (
            (height, width),
            (height - 1, width - 1),
            (height, width - LARGEST_STRIDE),
            (height - LARGEST_STRIDE, width),
            # A short side far below that of the shape makes the long one too short.
            (settings.min_side, width),
            (height, settings.min_side),
        )
        for size in candidates:
            shrink = min(1, math.sqrt(max_pixels / max(math.prod(size), 1)))
            size = tuple(int(side * shrink) for side in size)
            fitted = fitted_size(*map(tf.constant, size), settings.min_side, settings.max_side)
            if min(size) > 0 and int(choose_shape(fitted, settings.shapes)) == index:
                sizes.append(size)
                break
    return sizes


def bytes_array(name, strings):
    return {name: np.array(strings, object)}


def blank_png(height, width):
    return tf.io.encode_png(tf.fill([height, width, 1], tf.constant(128, tf.uint8))).numpy()
