"""Field cases: a kind of input, its expected outcome, and the change that makes it from a valid dataset."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 64, 48
BOXES = ((8, 6, 20, 16), (30, 20, 24, 18))
CASES = []


class FieldCase(NamedTuple):
    """One kind of input.

    Attributes:
        kind: What is unusual about the input.
        outcome: "works", or "repaired", "left out", "warning" or "refused", then a colon and a name of `checks`, or
            words of the message.
        change: Function of (folder, coco) that alters the valid dataset, and returns more flags, the name of another
            annotation file, or its bytes.
    """

    kind: str
    outcome: str
    change: Callable

    @property
    def name(self):
        return self.change.__name__


def case(kind, outcome):
    def add(change):
        CASES.append(FieldCase(kind, outcome, change))
        return change

    return add


def make(case, folder):
    """Writes the case below `folder`; returns the command's arguments."""
    coco = valid_dataset(folder)
    changed = case.change(folder, coco)
    path = folder / "coco.json"
    if isinstance(changed, bytes):
        path.write_bytes(changed)
    elif isinstance(changed, str):
        path = folder / changed
    else:
        path.write_text(json.dumps(coco), encoding="utf-8")
    flags = changed if isinstance(changed, list) else []
    return [f"--annotations={path}", f"--images={folder / 'images'}", f"--output={folder / 'records'}", *flags]


def valid_dataset(folder):
    """Writes three images; returns COCO's content with two objects on each."""
    images, annotations = [], []
    for i in range(1, 4):
        save(folder / "images" / f"{i}.jpg", pixels())
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        for j, box in enumerate(BOXES):
            row = {"id": 2 * i + j - 1, "image_id": i, "category_id": j + 1, "bbox": [float(v) for v in box]}
            annotations.append(row | {"segmentation": [rectangle(*box)], "area": float(box[2] * box[3]), "iscrowd": 0})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "nut"}],
    }


def pixels(width=WIDTH, height=HEIGHT):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 5, x + y], -1).astype(np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path, **options)


def rectangle(x, y, w, h):
    return [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]


def run_lengths(box, order="F"):
    x, y, w, h = (int(v) for v in box)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order=order)])))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, mask.size]).tolist()}


def compressed(box):
    counts = coco_mask.frPyObjects(run_lengths(box), HEIGHT, WIDTH)["counts"].decode()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def each(key, value):
    """Returns a change of one key of every annotation to `value(row)`."""

    def change(folder, coco):
        for row in coco["annotations"]:
            row[key] = value(row)

    return change


def add(kind, outcome, name, change):
    change.__name__ = name
    case(kind, outcome)(change)
