"""ONNX export of the network alone, for programs without TensorFlow: pixels of one padded shape in, detections out.

What the SavedModel does around the network (decoding, resizing, strings, the image's own pixels) is left to the caller:
docs/serving.md. tf2onnx supports `tf.image.combined_non_max_suppression` only for boxes that all classes share, and
does not support XLA's RoIAlign: ONNX needs NMS "xla" and RoIAlign "crop_and_resize".
"""

import json
import shutil

import tensorflow as tf

from htc_tf import formats
from htc_tf.errors import UserError
from htc_tf.serving.write import hold_folder

OPSET = 17
CLASSES = "classes.json"
# Bindings that build a model of operations and types that tf2onnx supports.
BINDINGS = (
    "RoIPooler.implementation = 'crop_and_resize'",
    "RPN.nms = 'xla'",
    "Postprocess.nms = 'xla'",
    "PRECISION = 'float32'",
)


def export_onnx(detector, categories, folder):
    """Writes folder/onnx/htc_HEIGHTxWIDTH.onnx for each padded shape, and the classes; aside first, then renamed.

    Args:
        detector: an inference.Detector whose model was built with BINDINGS.
        categories: [{"id", "name"}, ...] by class index.
        folder: a Path.

    Returns:
        folder/onnx.

    Raises:
        UserError: the folder exists already, another export writes into it, it cannot be written, or tf2onnx is not
            installed.
    """
    place, aside = folder / "onnx", folder / ".unfinished_onnx"
    with hold_folder(folder):
        if place.exists():
            raise UserError(f"{place} exists already: remove it, or name another --output")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for height, width in detector.input.shapes:
            content = to_onnx(make_network(detector.model, height, width))
            (aside / f"htc_{height}x{width}.onnx").write_bytes(content)
        (aside / CLASSES).write_text(json.dumps({"format": formats.EXPORT, "categories": categories}, indent=1) + "\n")
        aside.rename(place)
    return place


def make_network(model, height, width):
    """Returns a tf.function of one padded shape.

    Its inputs are images [1, height, width, 3] uint8, the resized image at the top left, and sizes [1, 2] float32, its
    height and width. Its outputs are boxes [1, D, 4] in pixels of the resized image, scores [1, D], classes [1, D],
    num_detections [1], and with masks masks_28 [1, D, 28, 28]; best first, rows from num_detections on are padding.
    """

    def predict(images, sizes):
        found = model.infer(images, sizes)
        outputs = {
            "boxes": found.boxes,
            "scores": found.scores,
            "classes": found.classes,
            "num_detections": tf.reduce_sum(tf.cast(found.valid, tf.int32), axis=1),
        }
        return outputs | ({"masks_28": found.masks} if model.masks else {})

    signature = [
        tf.TensorSpec([1, height, width, 3], tf.uint8, name="images"),
        tf.TensorSpec([1, 2], tf.float32, name="sizes"),
    ]
    return tf.function(predict, input_signature=signature, autograph=False)


def to_onnx(network):
    """Converts a tf.function to an ONNX file's bytes."""
    try:
        import tf2onnx
    except ImportError as error:
        raise UserError("--onnx needs tf2onnx: pip install 'htc_tf[onnx]'") from error
    model, _ = tf2onnx.convert.from_function(network, input_signature=network.input_signature, opset=OPSET)
    return model.SerializeToString()
