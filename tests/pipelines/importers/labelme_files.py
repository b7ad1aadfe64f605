"""LabelMe's files for tests, and their conversion."""

import base64
import io
import json

import numpy as np
from PIL import Image

from tests.pipelines.importers import conversion

SIDE = 40


def shape(label="dog", points=((4, 4), (14, 4), (14, 12), (4, 12)), kind="polygon", **fields):
    return {"label": label, "points": [list(point) for point in points], "shape_type": kind, "group_id": None, **fields}


def png(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def mask_shape(pixels, left=3, top=5, **fields):
    height, width = np.shape(pixels)[:2]
    corners = ((left, top), (left + width - 1, top + height - 1))
    return shape(points=corners, kind="mask", mask=png(pixels), **fields)


def add(folder, name, *shapes, **fields):
    """Writes an image, and LabelMe's file of it."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"{name}.png"
    if not image.exists():
        Image.new("RGB", (SIDE, SIDE - 8)).save(image)
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.png", "imageData": None}
    content |= {"imageHeight": SIDE - 8, "imageWidth": SIDE, **fields}
    (folder / f"{name}.json").write_text(json.dumps(content))


def convert(folder, *flags):
    """Returns {split: content} of what the command writes, and the entries of left_out.txt."""
    return conversion.convert("labelme", folder, *flags)
