"""Exported SavedModels in this process: a detector for the Predictor, and a client of the serving signature.

Neither gin nor the model's own code is needed.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from htc_tf import formats
from htc_tf.errors import ModelFailed, UserError, reason_of
from htc_tf.inference.batching import model_errors
from htc_tf.inference.exported_outputs import read_row
from htc_tf.inference.results import ImageResult
from htc_tf.run import MAX_CLASSES_BYTES, parse_categories

CLASSES = "assets.extra/classes.json"  # as in a run's folder; TensorFlow reserves assets.extra for users


class ExportedDetector:
    """The newest version of an export as a detector. `categories` are K dicts {"id", "name"} by class index."""

    def __init__(self, folder: str | os.PathLike) -> None:
        """
        Args:
            folder: Path of an export, with versions EXPORT/1, EXPORT/2, ..., or of one version.
        Raises:
            UserError: The export cannot be loaded.
        """
        version, self.model, self.serve = load_export(folder, "predict_image")
        self.categories = self.read_categories(version / CLASSES)

    def read_categories(self, path: Path) -> list[dict[str, Any]]:
        """Returns the categories of the file at `path`, or else the model's class names with ids 1, 2, ..."""
        advice = "export the run again"
        strings = [tensor.numpy() for tensor in self.serve.captured_inputs if tensor.dtype == tf.string]
        text = read_classes(path)
        if text is None:
            if len(strings) != 1:
                raise UserError(f"{path} is missing, and the model is not htc_tf's: {advice}")
            return [{"id": index + 1, "name": name.decode()} for index, name in enumerate(strings[0])]
        categories = parse_categories(text, path, advice)
        if len(strings) == 1 and len(categories) != len(strings[0]):
            raise UserError(f"{path} has {len(categories)} classes, but the model {len(strings[0])}: {advice}")
        return categories

    def detect_image(self, image: np.ndarray, semantic: bool = False) -> ImageResult:
        """Returns the ImageResult of an image [H, W, 3] uint8 of any size, with the semantic map if it is wanted."""
        outputs = self.predict(image)
        result = read_row(outputs).result
        return result._replace(labels=read_labels(outputs)) if semantic else result

    def label_map(self, image: np.ndarray) -> np.ndarray:
        """Returns the semantic branch's label of each pixel, [H, W] uint8, of an image [H, W, 3] uint8.

        Raises:
            UserError: The model was exported without it.
        """
        return read_labels(self.predict(image))

    def predict(self, image: np.ndarray) -> dict[str, Any]:
        """Returns {output: array without the batch dimension} for an image [H, W, 3] uint8.

        Raises:
            ModelFailed: The model fails on the image or rejects it.
        """
        with model_errors():
            outputs = self.serve(images=tf.constant(image[np.newaxis]), sizes=tf.constant([image.shape[:2]]))
        outputs = {name: value.numpy()[0] for name, value in outputs.items()}
        if outputs["status"]:
            raise ModelFailed(f"the model refuses the image: {outputs['status'].decode()}")
        return outputs


def read_labels(outputs: dict[str, Any]) -> np.ndarray:
    """Returns the semantic map [H, W] uint8 of an image's outputs."""
    if "semantic_png_bytes" not in outputs:
        raise UserError("a semantic map needs a model that was exported with --semantic")
    return tf.io.decode_png(outputs["semantic_png_bytes"], channels=1)[..., 0].numpy()


class LocalClient:
    """Client of an export's newest version in this process, with the interface of RestClient and GrpcClient."""

    def __init__(self, folder: str | os.PathLike) -> None:
        """
        Args:
            folder: Path of an export, with versions EXPORT/1, EXPORT/2, ..., or of one version.
        Raises:
            UserError: The export cannot be loaded.
        """
        _, self.model, self.serve = load_export(folder, "serving_default")

    def predict(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns {output: array [B, ...]} for B encoded images; strings are arrays of bytes objects.

        Raises:
            ModelFailed: The model fails on these images.
        """
        with model_errors():
            outputs = self.serve(image_bytes=tf.constant(files))
        return {name: value.numpy() for name, value in outputs.items()}


def load_export(folder: str | os.PathLike, signature: str) -> tuple[Path, Any, Any]:
    """Loads the newest version of an export.

    Returns:
        (path, model, signature): the version's folder; its SavedModel, which must stay referenced, or its variables are
        freed; and the signature function.
    Raises:
        UserError: The folder holds no export, or it cannot be loaded.
    """
    version = newest_version(folder)
    if version is None:
        raise UserError(f"{folder} holds no exported model; make one with python -m htc_tf.export")
    check_format(version / CLASSES)
    if not tf.config.list_physical_devices("GPU"):
        # On a CPU Grappler gains nothing and prints a screen of warnings, as in `Experiment.prepare_runtime`.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    logging.set_verbosity(logging.ERROR)  # no warnings about gradients, which an export does not need
    try:
        model = tf.saved_model.load(str(version))
        return version, model, model.signatures[signature]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = reason_of(str(error))
        raise UserError(f"{version}: cannot be loaded ({reason}): export the run again") from error


def read_classes(path: Path) -> bytes | None:
    """Returns the content of an export's classes.json; None without one."""
    if not path.is_file():  # opening a pipe would wait
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CLASSES_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if len(content) > MAX_CLASSES_BYTES:
        raise UserError(f"{path} has more than the {MAX_CLASSES_BYTES:,} bytes that are read: export the run again")
    return content


def check_format(path: Path) -> None:
    """Checks the format number of an export, in its classes.json; `read_categories` reports a damaged file."""
    content = {}
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(read_classes(path) or b"{}")
    if isinstance(content, dict):
        formats.check(content.get("format"), formats.EXPORT, path)


def newest_version(folder: str | os.PathLike) -> Path | None:
    """Returns EXPORT/N with the highest N, as a model server does, or EXPORT itself; None without a model."""
    folder = Path(folder)
    if (folder / "saved_model.pb").is_file():
        return folder
    versions = [path.parent for path in folder.glob("*/saved_model.pb") if path.parent.name.isdecimal()]
    return max(versions, key=lambda path: int(path.name), default=None)
