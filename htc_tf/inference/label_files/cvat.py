"""CVAT: cvat.xml in the format "CVAT for images 1.1", to be uploaded to a task that has the images.

Format: https://docs.cvat.ai/docs/dataset_management/formats/xml_format/. An object of one part without holes is a
polygon, any other a mask, which CVAT edits with its brush.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

from htc_tf.inference.label_files import NotSaved, with_polygons
from htc_tf.inference.label_files.list_file import ListFile
from htc_tf.inference.label_files.masks import count_runs, crop_mask
from htc_tf.inference.output_names import InputFile
from htc_tf.ops.polygons import Polygon

if TYPE_CHECKING:
    from htc_tf.inference.prediction import DetectedObject, Prediction


NAME = "cvat.xml"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Writer:
    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float) -> None:
        self.tolerance = tolerance
        labels = "".join(f"<label><name>{escape(clean(row['name']))}</name></label>" for row in categories)
        meta = f"<version>1.1</version>\n<meta><task><labels>{labels}</labels></task></meta>\n"
        start = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{meta}'
        self.file = ListFile(output / NAME, start, "\n</annotations>\n", separator="\n")

    @staticmethod
    def paths(files: Sequence[InputFile]) -> list[str]:
        return [NAME]

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Appends an image."""
        if NOT_XML.search(file.name):
            raise NotSaved("its name has characters that XML cannot hold: rename it")
        height, width = prediction.size
        shapes = "".join(f"  {describe(*row)}\n" for row in with_polygons(prediction, self.tolerance))
        image = {"id": file.image_id, "name": file.name, "width": width, "height": height}
        self.file.write([f"{element('image', image)}\n{shapes}</image>"])

    def close(self) -> None:
        self.file.close()


def describe(found: DetectedObject, parts: Sequence[Polygon] | None) -> str:
    """Returns the element of a DetectedObject with these Polygons."""
    common = {"label": clean(found.label), "source": "auto", "occluded": 0, "z_order": 0}
    if parts is None or found.run_lengths is None:
        y1, x1, y2, x2 = found.box.round(2).tolist()
        return element("box", {**common, "xtl": x1, "ytl": y1, "xbr": x2, "ybr": y2}) + "</box>"
    if len(parts) == 1 and not parts[0].holes:
        points = ";".join(f"{x:.12g},{y:.12g}" for x, y in parts[0].outer.tolist())
        return element("polygon", {**common, "points": points}) + "</polygon>"
    top, left, mask = crop_mask(found.run_lengths)
    runs = ", ".join(map(str, count_runs(mask)))
    size = {"left": left, "top": top, "width": mask.shape[1], "height": mask.shape[0]}
    return element("mask", {**common, "rle": runs, **size}) + "</mask>"


def element(name: str, attributes: Mapping[str, Any]) -> str:
    """Returns the start of an element."""
    return f"<{name} {' '.join(f'{key}={quoteattr(str(value))}' for key, value in attributes.items())}>"


def clean(text: str) -> str:
    """Returns a text with a replacement character for each one that XML cannot hold."""
    return NOT_XML.sub("\ufffd", text)
