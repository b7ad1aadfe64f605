"""The network alone as ONNX or TFLite, for programs without TensorFlow: pixels of one padded shape in, detections out.

Before: a trained model (`inference.detector.restore`). After: onnxruntime, or TFLite's interpreter. What the SavedModel
does around the network (decoding, resizing, strings, the picture's own pixels) is left to who asks: docs/serving.md.

tf2onnx has `tf.image.combined_non_max_suppression` only for boxes that all classes share, and nothing for XLA's
RoIAlign: ONNX wants NMS "xla" and RoIAlign "crop_and_resize". TFLite has neither operation and takes TensorFlow's
(Select TF ops).
"""

import json
import shutil
import tempfile

import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.serving.write import hold_folder

OPSET = 17
CLASSES = "classes.json"
# For each form the bindings that make a model of which it has all operations.
BINDINGS = {
    "onnx": ("RoIPooler.implementation = 'crop_and_resize'", "RPN.nms = 'xla'", "Postprocess.nms = 'xla'"),
    "tflite": ("RoIPooler.implementation = 'crop_and_resize'", "RPN.nms = 'combined'", "Postprocess.nms = 'combined'"),
}


def export_portable(detector, categories, folder, form):
    """Writes folder/FORM/htc_HEIGHTxWIDTH.FORM for each padded shape, and the classes: aside first, then renamed.

    Args:
        detector: an inference.Detector, its model built with the form's BINDINGS.
        categories: [{"id", "name"}, ...] by class index.
        folder: a Path.
        form: "onnx" or "tflite".
    Returns:
        folder/FORM.
    Raises:
        UserError: it is there already, another export writes into the folder, or the converter is not installed.
    """
    convert = {"onnx": to_onnx, "tflite": to_tflite}[form]
    place, aside = folder / form, folder / f".unfinished_{form}"
    with hold_folder(folder):
        if place.exists():
            raise UserError(f"{place} is there already: remove it, or name another --output")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for height, width in detector.input.shapes:
            content = convert(make_network(detector.model, height, width), detector.model.variables)
            (aside / f"htc_{height}x{width}.{form}").write_bytes(content)
        (aside / CLASSES).write_text(json.dumps({"categories": categories}, indent=1) + "\n")
        aside.rename(place)
    return place


def make_network(model, height, width):
    """A tf.function: images [1, height, width, 3] uint8, at the top left the resized picture, and sizes [1, 2] float32,
    its height and width -> boxes [1, D, 4] in its pixels, scores [1, D], classes [1, D], num_detections [1], and from a
    model with masks masks_28 [1, D, 28, 28]; best first, the rows from num_detections on are padding."""

    def look(images, sizes):
        found = model.infer(images, sizes)
        answer = {
            "boxes": found.boxes,
            "scores": found.scores,
            "classes": found.classes,
            "num_detections": tf.reduce_sum(tf.cast(found.valid, tf.int32), axis=1),
        }
        return answer | ({"masks_28": found.masks} if model.masks else {})

    signature = [
        tf.TensorSpec([1, height, width, 3], tf.uint8, name="images"),
        tf.TensorSpec([1, 2], tf.float32, name="sizes"),
    ]
    return tf.function(look, input_signature=signature, autograph=False)


def to_onnx(network, variables):
    """A tf.function, which holds its variables itself, -> an ONNX file."""
    try:
        import tf2onnx
    except ImportError as error:
        raise UserError("ONNX wants tf2onnx: pip install 'htc_tf[onnx]'") from error
    model, _ = tf2onnx.convert.from_function(network, input_signature=network.input_signature, opset=OPSET)
    return model.SerializeToString()


def to_tflite(network, variables):
    """A tf.function and the variables that it reads -> a TFLite file."""
    module = tf.Module()
    module.network, module.variables_read = network, variables
    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel: only then inputs and outputs have names.
        tf.saved_model.save(module, folder, signatures=network)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        return converter.convert()
