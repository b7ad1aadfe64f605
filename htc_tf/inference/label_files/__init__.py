"""Label files: predictions in the formats of annotation tools, ready to import and correct.

`htc_tf.predict --save` writes them. Each module has the class `Writer` of one format, a `LabelWriter`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from htc_tf.errors import UserError

if TYPE_CHECKING:
    from htc_tf.inference.output_names import InputFile
    from htc_tf.inference.prediction import DetectedObject, Prediction
    from htc_tf.ops.polygons import Polygon


FORMATS = ("coco", "labelme", "labelstudio", "cvat", "yolo")  # modules of this package


class NotSaved(UserError):
    """Objects that a format cannot hold."""


class LabelWriter(Protocol):
    """Writer of the files of one format."""

    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        """Makes the files in an output folder; polygons may differ from the masks' outlines by `tolerance` pixels."""

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        """Returns the paths in the output folder that are written for these files."""

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Saves the objects of a Prediction of a file. Raises NotSaved if the format cannot hold them."""

    def close(self) -> None:
        """Completes the files, even after an interruption."""


def with_polygons(prediction: Prediction, tolerance: float) -> Iterator[tuple[DetectedObject, list[Polygon] | None]]:
    """Returns an iterator of (DetectedObject, its Polygons or, without mask heads, None) of a Prediction."""
    polygons = prediction.polygons(tolerance)
    return zip(prediction, [None] * len(prediction) if polygons is None else polygons, strict=True)


def find_writer(name: str) -> type[LabelWriter]:
    """Returns the class Writer of a format."""
    return importlib.import_module(f"htc_tf.inference.label_files.{name}").Writer
