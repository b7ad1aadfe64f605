"""The SavedModel: encoded image bytes in, detections in original pixels out, nothing else needed.

Comes after training; `htc_tf.client` and TensorFlow Serving ask it. Decoding and resizing are inside and are
prediction's own, so that the answers are too.
"""

import functools
import json
import shutil

import tensorflow as tf

from htc_tf.data.resize import choose_shape, pad_to, resize_to_fit
from htc_tf.engine.prediction.exported import CLASSES


class ServingModule(tf.Module):
    """What is exported: the model and its signatures."""

    def __init__(self, detector, class_names):
        super().__init__()
        # Only the weights are tracked. A tracked Keras model would be saved once more, layer by layer, and Keras
        # cannot save layers that pass the pyramid on as a dict of levels.
        self.weights = detector.model.variables
        self.detector = lambda: detector
        self.input = detector.input
        self.class_names = tf.constant(list(class_names))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes):
        """A batch of JPEG, PNG, GIF or BMP bytes, of any sizes in one batch. An EXIF orientation is not heeded.

        Returns:
            boxes [B, D, 4] float32 (y1, x1, y2, x2 in pixels of the picture), scores [B, D] float32, classes [B, D]
            int32, class_names [B, D] string, num_detections [B] int32, and, if the model has masks, masks
            [B, D, 28, 28] float32: probabilities inside the box. Rows from num_detections on are padding.
        """
        specs = {
            "boxes": tf.TensorSpec([None, 4], tf.float32),
            "scores": tf.TensorSpec([None], tf.float32),
            "classes": tf.TensorSpec([None], tf.int32),
            "num_detections": tf.TensorSpec([], tf.int32),
        }
        if self.detector().model.masks:
            specs["masks"] = tf.TensorSpec([None, 28, 28], tf.float32)
        answers = tf.map_fn(self.detect_bytes, image_bytes, fn_output_signature=specs)
        return {**answers, "class_names": tf.gather(self.class_names, answers["classes"])}

    def detect_bytes(self, encoded):
        """One picture, so that its sizes stand in no other's way."""
        model = self.detector().model
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, 3])
        original = tf.cast(tf.shape(image)[:2], tf.float32)
        image, size = resize_to_fit(image, self.input.min_side, self.input.max_side)

        def detect(shape):
            return model(pad_to(image, *shape)[tf.newaxis], size[tf.newaxis])

        # The graph holds the model once for each padded shape; the weights are shared.
        fits = choose_shape(tf.cast(size, tf.int32), self.input.shapes)
        ways = [functools.partial(detect, shape) for shape in self.input.shapes]
        found = tf.switch_case(tf.cast(fits, tf.int32), ways) if len(ways) > 1 else ways[0]()
        limits = tf.tile(original, [2])
        answer = {
            "boxes": tf.clip_by_value(found.boxes[0] / tf.tile(size / original, [2]), 0.0, limits),
            "scores": found.scores[0],
            "classes": found.classes[0],
            "num_detections": tf.reduce_sum(tf.cast(found.valid[0], tf.int32)),
        }
        if model.masks:
            answer["masks"] = found.masks[0]
        return answer


def export(detector, categories, folder):
    """Writes folder/1, or the next version where there are some: aside first, then renamed in one go, so that a
    server never sees half a model. Returns the version's folder.

    categories: [{"id", "name"}, ...] by class index; they lie beside the model, in assets.extra/classes.json.
    """
    versions = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    version = folder / str(max(versions, default=0) + 1)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    module = ServingModule(detector, [category["name"] for category in categories])
    tf.saved_model.save(module, str(aside), signatures={"serving_default": module.serve_bytes})
    classes = aside / CLASSES
    classes.parent.mkdir()
    classes.write_text(json.dumps({"categories": categories}, indent=1) + "\n")
    aside.rename(version)
    return version
