"""An exported SavedModel behind the same face as a run's Detector: no gin, and none of the model's own code.

Before: `serving.write` wrote it. After: `inference.predictor`.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from htc_tf.errors import ModelFailed, UserError, reason_of
from htc_tf.inference.exported_outputs import read_row
from htc_tf.inference.failures import model_errors

CLASSES = "assets.extra/classes.json"  # as in a run's folder; TensorFlow leaves assets.extra to whoever writes it


class ExportedDetector:
    """Asks the newest version of an export. `categories` are [{"id", "name"}, ...] by class index."""

    def __init__(self, folder):
        """
        Args:
            folder: EXPORT, with its versions EXPORT/1, EXPORT/2, ..., or one of these.
        Raises:
            UserError: it cannot be loaded.
        """
        version, self.model, self.serve = load_export(folder, "predict_image")
        self.categories = self.read_categories(version / CLASSES)

    def read_categories(self, path):
        """From the file beside the model, or else the names that the model holds, with ids 1, 2, ..."""
        try:
            if path.is_file():
                return json.loads(path.read_text())["categories"]
            (names,) = [tensor.numpy() for tensor in self.serve.captured_inputs if tensor.dtype == tf.string]
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{path} is damaged ({error}), or the model none of htc_tf: export the run again"
            ) from error
        return [{"id": index + 1, "name": name.decode()} for index, name in enumerate(names)]

    def detect_image(self, image):
        """image [H, W, 3] uint8, of any size -> its ImageResult, in its own pixels."""
        return read_row(self.ask(image)).result

    def label_map(self, image):
        """image [H, W, 3] uint8 -> what the semantic branch sees, [H, W] uint8 labels.

        Raises:
            UserError: the model was exported without.
        """
        answer = self.ask(image)
        if "semantic_png_bytes" not in answer:
            raise UserError("a semantic map wants a model that was exported with --semantic")
        return tf.io.decode_png(answer["semantic_png_bytes"], channels=1)[..., 0].numpy()

    def ask(self, image):
        """The answer about one picture: {output: an array without the batch's dimension}.

        Raises:
            ModelFailed: there is none.
        """
        with model_errors():
            answer = self.serve(images=tf.constant(image[np.newaxis]), sizes=tf.constant([image.shape[:2]]))
        answer = {name: value.numpy()[0] for name, value in answer.items()}
        if answer["status"]:
            raise ModelFailed(f"the model refuses the image: {answer['status'].decode()}")
        return answer


class LocalClient:
    """The newest version of an export, called in this process as `RestClient` and `GrpcClient` call a server."""

    def __init__(self, folder):
        """
        Args:
            folder: EXPORT, with its versions EXPORT/1, EXPORT/2, ..., or one of these.

        Raises:
            UserError: it cannot be loaded.
        """
        _, self.model, self.serve = load_export(folder, "serving_default")

    def predict(self, files):
        """Returns {output: array [B, ...]} for B encoded images; strings are arrays of bytes objects.

        Raises:
            ModelFailed: on these images.
        """
        with model_errors():
            outputs = self.serve(image_bytes=tf.constant(files))
        return {name: value.numpy() for name, value in outputs.items()}


def load_export(folder, signature):
    """-> the newest version's folder, its SavedModel (to be held, or its variables go), and one of its signatures.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    version = newest_version(folder)
    if version is None:
        raise UserError(f"{folder} holds no exported model; make one with python -m htc_tf.export")
    if not tf.config.list_physical_devices("GPU"):
        # On a CPU Grappler gains nothing and prints a screen of warnings, as in `Experiment.prepare_runtime`.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    logging.set_verbosity(logging.ERROR)  # no warnings about gradients, which nobody asks of an export
    try:
        model = tf.saved_model.load(str(version))
        return version, model, model.signatures[signature]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = reason_of(str(error))
        raise UserError(f"{version}: cannot be loaded ({reason}): export the run again") from error


def newest_version(folder):
    """EXPORT/N with the highest N, as a model server would choose it, or EXPORT itself; None if there is no model."""
    folder = Path(folder)
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [path.parent for path in folder.glob("*/saved_model.pb") if path.parent.name.isdigit()]
    return max(versions, key=lambda path: int(path.name), default=None)
