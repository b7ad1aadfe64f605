"""predictions.json: all detections in COCO's results format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc_tf.inference.label_files.list_file import ListFile
from htc_tf.inference.output_names import InputFile

if TYPE_CHECKING:
    from htc_tf.inference.prediction import Prediction


RESULTS = "predictions.json"


class Writer:
    """Each result has the `file_name` of its image, and its `frame` in a video."""

    def __init__(self, output: Path, categories: Sequence[dict[str, Any]], tolerance: float = 0) -> None:
        self.file = ListFile(output / RESULTS, "[\n", "\n]\n")

    def add(self, file: InputFile, prediction: Prediction) -> None:
        """Appends the detections."""
        origin: dict[str, Any] = {"file_name": file.name}
        if file.frame is not None:
            origin["frame"] = file.frame
        self.file.write(json.dumps({**entry, **origin}) for entry in prediction.to_coco(file.image_id))

    def close(self) -> None:
        self.file.close()
