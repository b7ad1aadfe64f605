"""Label Studio: labelstudio.json, tasks with predictions, and labelstudio.xml, the labeling interface for them.

Format: https://labelstud.io/guide/predictions. Images are referred to as files of a local storage, relative to the
folder that all input files share. An object of one part without holes is a polygon, any other a brush mask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from htc_tf.inference.label_files import NotSaved, brush, with_polygons
from htc_tf.inference.label_files.cvat import clean
from htc_tf.inference.label_files.list_file import ListFile, replace_file
from htc_tf.inference.output_names import InputFile
from htc_tf.ops.polygons import Polygon

if TYPE_CHECKING:
    from htc_tf.inference.prediction import DetectedObject, Prediction


NAME, INTERFACE = "labelstudio.json", "labelstudio.xml"
LOCAL_FILES = "/data/local-files/?d="
KINDS = ("Polygon", "Brush", "Rectangle")


class Writer:
    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        self.tolerance = tolerance
        labels = "".join(f"    <Label value={quoteattr(clean(row['name']))}/>\n" for row in categories)
        controls = "".join(
            f'  <{kind}Labels name="{kind.lower()}" toName="image">\n{labels}  </{kind}Labels>\n' for kind in KINDS
        )
        self.file = ListFile(output / NAME, "[\n", "\n]\n")
        replace_file(
            output / INTERFACE, f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n{controls}</View>\n'
        )

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        return [NAME, INTERFACE]

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Appends the task of an image."""
        height, width = prediction.size
        results = []
        for number, (found, parts) in enumerate(with_polygons(prediction, self.tolerance), 1):
            kind, value = describe(found, parts, height, width)
            result: dict[str, Any] = {"id": str(number), "from_name": kind, "to_name": "image", "type": f"{kind}labels"}
            result |= {"original_width": width, "original_height": height, "image_rotation": 0}
            result |= {"value": {**value, f"{kind}labels": [clean(found.label)]}, "score": round(found.score, 4)}
            results.append(result)
        score = round(float(prediction.scores.mean()), 4) if len(prediction) else 0.0
        image = LOCAL_FILES + quote(os.fsencode(file.name)) if isinstance(file.path, Path) else str(file.path)
        predicted = {"model_version": "htc_tf", "score": score, "result": results}
        self.file.write([json.dumps({"data": {"image": image}, "predictions": [predicted]})])

    def close(self) -> None:
        self.file.close()


def describe(
    found: DetectedObject, parts: Sequence[Polygon] | None, height: int, width: int
) -> tuple[str, dict[str, Any]]:
    """Returns (kind, value) of a DetectedObject with these Polygons; coordinates are in percent of the image."""
    if parts is None or found.run_lengths is None:
        y1, x1, y2, x2 = found.box.tolist()
        box = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
        return "rectangle", {**{key: round(100 * value, 5) for key, value in box.items()}, "rotation": 0}
    if len(parts) == 1 and not parts[0].holes:
        percent = 100 * parts[0].outer / (width, height)
        return "polygon", {"points": percent.round(5).tolist(), "closed": True}
    if brush.CHANNELS * height * width >= 2**32:
        raise NotSaved(f"a brush mask cannot have {width} x {height} pixels")
    return "brush", {"format": "rle", "rle": brush.encode(found.run_lengths)}
