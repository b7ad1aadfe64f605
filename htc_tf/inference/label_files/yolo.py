"""YOLO: yolo/labels/NAME.txt for each image, and yolo/data.yaml with the classes, as Ultralytics reads them.

Format: https://docs.ultralytics.com/datasets/segment. An object is one polygon: bridges join its parts and holes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from htc_tf.inference.label_files import NotSaved, with_polygons
from htc_tf.inference.label_files.list_file import replace_file
from htc_tf.inference.output_names import InputFile
from htc_tf.ops.polygon_joins import join_parts

if TYPE_CHECKING:
    from htc_tf.inference.prediction import Prediction


FOLDER = "yolo"
HEADER = """\
# Ultralytics looks for the images of labels/NAME.txt in the folder images beside labels: move or link them there.
path: .
train: images
val: images
names:
"""


class Writer:
    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        self.output, self.tolerance = output / FOLDER, tolerance
        # A string of JSON is one of YAML, too, if all its characters are printable.
        names = ["".join(c if c.isprintable() else " " for c in row["name"]) for row in categories]
        lines = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names))
        replace_file(self.output / "data.yaml", HEADER + lines)

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        return [f"{FOLDER}/data.yaml", *(f"{FOLDER}/labels/{file.stem}.txt" for file in files)]

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Writes the file of an image, a line for each object."""
        if file.stem != file.name.removesuffix(PurePath(file.name).suffix):
            raise NotSaved("labels are found by an image's name: another one has the same, or it is too long")
        height, width = prediction.size
        lines = []
        for found, parts in with_polygons(prediction, self.tolerance):
            if parts is None:
                y1, x1, y2, x2 = found.box.tolist()
                values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            else:
                values = (join_parts(parts) / (width, height)).ravel().tolist()
            lines.append(f"{found.class_index} {' '.join(f'{value:.7g}' for value in values)}\n")
        replace_file(self.output / "labels" / f"{file.stem}.txt", "".join(lines))

    def close(self) -> None:
        pass
