"""Responses of an exported model: its output arrays, described in docs/serving.md, as one Response per image.

This module does not import TensorFlow, so a client of a server needs none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from htc_tf.data import image_io
from htc_tf.errors import UserError
from htc_tf.inference.inputs import Unreadable, Url, read_image
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from htc_tf.ops.paste import encode_masks
from htc_tf.ops.rle_decoding import MAX_PIXELS, is_valid_rle

REQUIRED = ("boxes", "scores", "classes", "class_names", "num_detections", "sizes", "status")
MAX_SIDE = 2**20  # of an image with masks_28: pasting takes 470 bytes for each column of a box, and 28 for each row
ROUNDING = 0.5  # pixels that a box may lie outside of the image: a program between here and the model may round
MAX_CLASSES = 2**15  # many times the largest data set's; a drawing makes a color for each class below the highest


class Response(NamedTuple):
    """An exported model's response for one image."""

    status: str  # empty, or the reason why the model rejected the image; then nothing is detected
    size: tuple[int, int]  # height and width of the image in which the boxes lie
    result: ImageResult
    names: list[str]  # the objects' class names

    def above(self, threshold: float) -> Response:
        """Returns a Response with the objects whose score is at least `threshold`."""
        keep = np.flatnonzero(self.result.scores >= threshold)
        masks = self.result.masks
        boxes, scores, classes = (field[keep] for field in self.result[:3])
        kept = ImageResult(boxes, scores, classes, None if masks is None else [masks[index] for index in keep])
        return self._replace(result=kept, names=[self.names[index] for index in keep])

    def describe(self, masks: bool = False) -> dict[str, Any]:
        """Returns a dict for JSON; with `masks`, each detection has its COCO run lengths as `segmentation`."""
        found = [
            {"class": name, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for name, score, box in zip(
                self.names, self.result.scores.tolist(), self.result.boxes.tolist(), strict=True
            )
        ]
        if masks and self.result.masks is not None:
            found = [{**row, "segmentation": run} for row, run in zip(found, self.result.masks, strict=True)]
        return {"height": self.size[0], "width": self.size[1], "detections": found}

    def draw(self, path: Path | Url, output: Path, threshold: float) -> None:
        """Draws the objects with a score of at least `threshold` on the image at `path`, saved to `output`."""
        # Only the names of detected classes are in the response; the others are never drawn.
        categories = [{"id": index + 1, "name": ""} for index in range(self.result.classes.max(initial=-1) + 1)]
        for index, name in zip(self.result.classes, self.names, strict=True):
            categories[index] = {"id": int(index) + 1, "name": name}
        Prediction(read_pixels(path, self.size), self.result, categories).draw(output, threshold)


def read_responses(outputs: Mapping[str, np.ndarray], images: int) -> list[Response]:
    """Returns a Response for each row of a model's output arrays {name: [B, ...]}, of B images.

    Raises:
        UserError: The outputs are another kind of model's, or do not fit together.
    """
    missing = [name for name in REQUIRED if name not in outputs]
    if missing:
        raise UserError(
            f"the model's outputs are {', '.join(sorted(outputs))}, without {', '.join(missing)}: it was not made by "
            "htc_tf.export"
        )
    for name, array in outputs.items():
        if np.shape(array)[:1] != (images,):
            raise UserError(f"the model's response is damaged: {name} does not have a row for each of {images} images")
    return [read_row({name: array[row] for name, array in outputs.items()}) for row in range(images)]


def read_row(row: dict[str, Any]) -> Response:
    """Returns the Response of one image's outputs, arrays without the batch dimension.

    Raises:
        UserError: The outputs do not fit together.
    """
    _check_row(row)
    count = int(row["num_detections"])
    size = tuple(row["sizes"].tolist())
    row = {name: value[:count] if np.ndim(value) else value for name, value in row.items()}  # without padded rows
    result = ImageResult(row["boxes"], row["scores"], row["classes"], read_masks(row, *size))
    names = [name.decode(errors="replace") for name in row["class_names"]]
    return Response(row["status"].decode(errors="replace"), size, result, names)


def _check_row(row):
    """Raises UserError for outputs that the arithmetic below would fail on: a server may return anything."""
    rows = len(row["boxes"]) if np.ndim(row["boxes"]) else 0
    shapes = {"boxes": (rows, 4), "sizes": (2,), "num_detections": (), "status": (), "masks_28": (rows, 28, 28)}
    shapes |= dict.fromkeys(("scores", "classes", "class_names", "masks_rle_bytes"), (rows,))
    kinds = dict.fromkeys(("boxes", "scores", "masks_28"), "f")  # of the arrays; the others are strings
    kinds |= dict.fromkeys(("classes", "sizes", "num_detections"), "iu")
    for name, shape in shapes.items():
        if name not in row:  # not every model has masks
            continue
        array = np.asarray(row[name])
        strings = name not in kinds and all(isinstance(value, bytes) for value in array.ravel().tolist())
        if array.shape != shape or not (strings or array.dtype.kind in kinds.get(name, "")):
            raise UserError(f"the model's response is damaged: {name} has another shape or type")
        if kinds.get(name) == "f" and not np.isfinite(array).all():
            raise UserError(f"the model's response is damaged: {name} is not finite")
    if not 0 <= row["num_detections"] <= rows:
        raise UserError(f"the model's response is damaged: num_detections is not from 0 to {rows}")
    if min(row["sizes"]) < 0 or math.prod(row["sizes"].tolist()) >= MAX_PIXELS:
        raise UserError("the model's response is damaged: sizes are out of range")
    if rows and not 0 <= min(row["classes"]) <= max(row["classes"]) < MAX_CLASSES:
        raise UserError(f"the model's response is damaged: class indices are from 0 to {MAX_CLASSES - 1}")
    starts, ends = np.split(row["boxes"][: row["num_detections"]], 2, axis=1)  # [n, 2] each: y and x
    height, width = row["sizes"].tolist()
    if not ((starts >= -ROUNDING) & (starts <= ends) & (ends <= np.add([height, width], ROUNDING))).all():
        raise UserError(f"the model's response is damaged: boxes are not within {height} x {width} pixels")


def read_masks(row: dict[str, Any], height: int, width: int) -> list[dict[str, Any]] | None:
    """Returns the masks of one image as COCO run lengths, from whichever output has them; None without masks."""
    if "masks_rle_bytes" in row:
        runs: list[dict[str, Any]] = [
            {"size": [height, width], "counts": bytes(counts)} for counts in row["masks_rle_bytes"]
        ]
        if not all(is_valid_rle(run, height, width) for run in runs):
            raise UserError(f"the model's response is damaged: run lengths that do not fill {height} x {width} pixels")
        return [run | {"counts": run["counts"].decode()} for run in runs]
    if "masks_28" in row:
        # A mask that is close to the threshold takes 8 bytes for each pixel of its box.
        if max(height, width) > MAX_SIDE or height * width > image_io.MAX_PIXELS:
            raise UserError(
                f"masks_28 of an image of {height} x {width} pixels: it may have {image_io.MAX_PIXELS}, its sides "
                f"{MAX_SIDE}; export the run with --masks masks_rle_bytes"
            )
        # In parts, whose rows take memory together.
        masks, boxes = row["masks_28"], row["boxes"]
        together = max(MAX_SIDE // max(height, 1), 1)
        parts = [slice(start, start + together) for start in range(0, len(masks), together)]
        return [mask for part in parts for mask in encode_masks(masks[part], boxes[part], height, width)]
    return None


def read_pixels(path: Path | Url, size: tuple[int, int]) -> np.ndarray:
    """Returns an image file as [H, W, 3] uint8 RGB, upright, as the model saw it.

    Raises:
        Unreadable: The file is no image, or not of the size that the model saw.
    """
    try:
        pixels = read_image(path, limit="")
    except Unreadable as error:
        raise Unreadable(path, f"cannot be drawn on ({error.reason})") from error
    if pixels.shape[:2] != size:
        raise Unreadable(path, f"cannot be drawn on: the model saw {size[0]} x {size[1]} pixels")
    return pixels
