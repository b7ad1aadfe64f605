"""COCO: coco.json, a data set with its images, objects and categories."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pycocotools import mask as coco_mask

from htc_tf.inference.label_files import with_polygons
from htc_tf.inference.label_files.list_file import ListFile
from htc_tf.inference.output_names import InputFile
from htc_tf.ops.polygon_joins import join_holes

if TYPE_CHECKING:
    from htc_tf.inference.prediction import Prediction


NAME = "coco.json"


class Writer:
    """Objects are polygons, one for each part, to which a bridge joins its holes."""

    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        self.tolerance = tolerance
        self.images, self.ids = [], itertools.count(1)
        described = {
            "info": {"description": "predictions of htc_tf"},
            "categories": [{"id": row["id"], "name": row["name"], "supercategory": "object"} for row in categories],
        }
        self.file = ListFile(output / NAME, f'{json.dumps(described)[:-1]}, "annotations": [\n', "")

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        return [NAME]

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Appends the objects of an image."""
        height, width = prediction.size
        self.images.append({"id": file.image_id, "file_name": file.name, "height": height, "width": width})
        rows = with_polygons(prediction, self.tolerance)
        self.file.write(json.dumps(self._describe(file, found, parts)) for found, parts in rows)

    def _describe(self, file, found, parts):
        y1, x1, y2, x2 = found.box.tolist()
        row = {"id": next(self.ids), "image_id": file.image_id, "category_id": found.category_id, "iscrowd": 0}
        row |= {"score": round(found.score, 4)}
        if parts is None:
            box = [x1, y1, x2 - x1, y2 - y1]
            return {**row, "bbox": [round(value, 2) for value in box], "area": round((x2 - x1) * (y2 - y1), 2)}
        row |= {"bbox": coco_mask.toBbox(found.run_lengths).tolist(), "area": int(coco_mask.area(found.run_lengths))}
        return {**row, "segmentation": [join_holes(part).round(2).ravel().tolist() for part in parts]}

    def close(self) -> None:
        self.file.end = f'\n], "images": {json.dumps(self.images)}}}\n'
        self.file.close()
