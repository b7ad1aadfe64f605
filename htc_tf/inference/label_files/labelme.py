"""LabelMe: labelme/NAME.json for each image, which refers to the image where it is.

Format: https://github.com/wkentaro/labelme. An object without holes is a polygon, or several of one group; one with
holes is a mask, because LabelMe's polygons have none.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from htc_tf.errors import UserError
from htc_tf.inference.label_files import with_polygons
from htc_tf.inference.label_files.list_file import replace_file
from htc_tf.inference.label_files.masks import crop_mask
from htc_tf.inference.output_names import InputFile
from htc_tf.ops.polygons import Polygon

if TYPE_CHECKING:
    from htc_tf.inference.prediction import DetectedObject, Prediction


FOLDER = "labelme"


class Writer:
    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        self.output, self.tolerance = output, tolerance

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        return [f"{FOLDER}/{file.stem}.json" for file in files]

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Writes the file of an image. It contains the pixels of an image that is no file."""
        image_path = file.path if isinstance(file.path, Path) else None
        write_labels(self.output / self.paths([file])[0], prediction, self.tolerance, image_path)

    def close(self) -> None:
        pass


def write_labels(
    path: Path, prediction: Prediction, tolerance: float, image_path: str | os.PathLike | None = None
) -> None:
    """Writes the objects of a Prediction.

    Args:
        path: Path of the JSON file.
        prediction: Prediction.
        tolerance: float, pixels by which polygons may differ from the masks' outlines.
        image_path: Path of the image file; None to store the image's pixels in the JSON file.
    Raises:
        UserError: The path is that of the image, or cannot be written.
    """
    if image_path is not None and os.path.realpath(path) == os.path.realpath(image_path):
        raise UserError(f"{path} is the image itself: give another path for the JSON file")
    height, width = prediction.size
    if image_path is None:
        if prediction.image.shape[:2] != prediction.size:
            raise UserError(f"{path}: the image is too large to be stored in it: give image_path, the image's file")
        name, data = f"{path.stem}.png", png(prediction.image)
    else:
        name, data = reference(image_path, path.parent), None
    shapes = []
    for number, (found, parts) in enumerate(with_polygons(prediction, tolerance), 1):
        for kind, points, mask in describe(found, parts):
            shape: dict[str, Any] = {
                "label": found.label,
                "points": points,
                "group_id": None,
                "description": "",
                "flags": {},
            }
            shape |= {"shape_type": kind, "mask": mask, "score": round(found.score, 4)}
            if parts and kind == "polygon" and len(parts) > 1:
                shape["group_id"] = number
            shapes.append(shape)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": data}
    replace_file(path, json.dumps({**content, "imageHeight": height, "imageWidth": width}, indent=1))


def describe(
    found: DetectedObject, parts: Sequence[Polygon] | None
) -> Iterator[tuple[str, list[list[float]], str | None]]:
    """Yields (shape_type, points, mask) of the shapes of a DetectedObject with these Polygons."""
    if parts is None:
        y1, x1, y2, x2 = found.box.round(2).tolist()
        yield "rectangle", [[x1, y1], [x2, y2]], None
    elif any(part.holes for part in parts) and found.run_lengths is not None:
        top, left, mask = crop_mask(found.run_lengths)
        bottom, right = top + mask.shape[0] - 1, left + mask.shape[1] - 1
        yield "mask", [[left, top], [right, bottom]], png(mask)
    else:
        for part in parts:
            yield "polygon", part.outer.tolist(), None


def reference(image_path: str | os.PathLike, folder: Path) -> str:
    """Returns the path of an image relative to the folder of its labels."""
    try:
        return Path(os.path.relpath(image_path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return os.path.abspath(image_path)


def png(pixels: np.ndarray) -> str:
    """Returns an image or mask as PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
