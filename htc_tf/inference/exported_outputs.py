"""A model's output arrays become an answer for each picture: what was found, as the other commands have it too.

Before it: `serving.rest_client`, `serving.grpc_client` or `inference.exported` called the model. After it:
`htc_tf.client` prints and draws. What the outputs are: docs/serving.md.
"""

from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError
from htc_tf.inference.image_files import read_picture
from htc_tf.inference.inputs import Unreadable
from htc_tf.inference.prediction import Prediction
from htc_tf.inference.results import ImageResult
from htc_tf.ops.paste import encode_masks
from htc_tf.ops.rle_decoding import is_valid_rle

NEEDED = ("boxes", "scores", "classes", "class_names", "num_detections", "sizes", "status")


class Answer(NamedTuple):
    """Of one picture."""

    status: str  # "" is well; else why the model refused the picture, and nothing is found
    size: tuple[int, int]  # height and width in pixels, as the boxes mean them
    result: ImageResult
    names: list[str]  # of the objects' classes

    def above(self, threshold):
        """-> the Answer of the objects with at least that score."""
        keep = np.flatnonzero(self.result.scores >= threshold)
        masks = self.result.masks
        boxes, scores, classes = (field[keep] for field in self.result[:3])
        kept = ImageResult(boxes, scores, classes, None if masks is None else [masks[index] for index in keep])
        return self._replace(result=kept, names=[self.names[index] for index in keep])

    def describe(self, masks=False):
        """What json can write; with `masks` also their COCO run lengths, as `segmentation`."""
        found = [
            {"class": name, "score": round(score, 4), "box": [round(side, 2) for side in box]}
            for name, score, box in zip(
                self.names, self.result.scores.tolist(), self.result.boxes.tolist(), strict=True
            )
        ]
        if masks and self.result.masks is not None:
            found = [{**row, "segmentation": run} for row, run in zip(found, self.result.masks, strict=True)]
        return {"height": self.size[0], "width": self.size[1], "detections": found}

    def draw(self, path, output, threshold):
        """Draws the objects with at least that score on the picture `path`, and saves it as `output`."""
        # Nobody but the model knows all its classes: those that were not found have no name here.
        categories = [{"id": index + 1, "name": ""} for index in range(self.result.classes.max(initial=-1) + 1)]
        for index, name in zip(self.result.classes, self.names, strict=True):
            categories[index] = {"id": int(index) + 1, "name": name}
        Prediction(read_pixels(path, self.size), self.result, categories).draw(output, threshold)


def read_answers(outputs):
    """The arrays of a model's outputs -> an Answer for each row.

    Raises:
        UserError: they are of another kind of model.
    """
    missing = [name for name in NEEDED if name not in outputs]
    if missing:
        raise UserError(
            f"the model answers with {', '.join(sorted(outputs))}, without {', '.join(missing)}: it is none of "
            "htc_tf.export's models"
        )
    return [read_row({name: array[row] for name, array in outputs.items()}) for row in range(len(outputs["boxes"]))]


def read_row(row):
    found = int(row["num_detections"])
    size = tuple(row["sizes"].tolist())
    row = {name: value[:found] if np.ndim(value) else value for name, value in row.items()}
    result = ImageResult(row["boxes"], row["scores"], row["classes"], read_masks(row, *size))
    return Answer(row["status"].decode(), size, result, [name.decode() for name in row["class_names"]])


def read_masks(row, height, width):
    """The masks of one picture as COCO run lengths, from whichever output has them; None where none has."""
    if "masks_rle_bytes" in row:
        runs = [{"size": [height, width], "counts": bytes(counts)} for counts in row["masks_rle_bytes"]]
        if not all(is_valid_rle(run, height, width) for run in runs):
            raise UserError(f"the model's answer is damaged: run lengths that do not fill {height} x {width} pixels")
        return [run | {"counts": run["counts"].decode()} for run in runs]
    if "masks_28" in row:
        return encode_masks(row["masks_28"], row["boxes"], height, width)
    return None


def read_pixels(path, size):
    """An image file as [H, W, 3] uint8 RGB, upright, as the model saw it.

    Raises:
        Unreadable: it is no image, or not of the size that the model saw.
    """
    try:
        pixels = read_picture(path)
    except Unreadable as error:
        raise Unreadable(path, f"cannot be drawn on ({error.reason})") from error
    if pixels.shape[:2] != size:
        raise Unreadable(path, f"cannot be drawn on: the model saw {size[0]} x {size[1]} pixels")
    return pixels
