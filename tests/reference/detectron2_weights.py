"""Stand-in weights, images and objects of the comparison with detectron2, drawn and stored nowhere.

The original and the tests both run this file, so it needs NumPy alone.
"""

import runpy
from pathlib import Path

import numpy as np

DRAWN = runpy.run_path(str(Path(__file__).with_name("drawn_weights.py")))
# Factors that keep activations of order one, boxes near their anchors and scores apart.
FACTORS = {
    "stem.conv1.weight": 0.02,
    "objectness_logits.": 0.1,
    "anchor_deltas.": 0.1,
    "cls_score.": 0.5,
    "bbox_pred.": 0.1,
    "predictor.": 0.5,
}
SIZES = ((96, 128), (90, 110))  # height and width of the images
ORIGINAL_SIZES = ((72, 97), (135, 164))  # of the results
CLASSES = 5
# Center y and x, radii and class of the objects of each image: ellipses.
OBJECTS = (
    ((30.0, 40.0, 20.0, 30.0, 1), (70.0, 90.0, 14.0, 25.0, 3), (50.0, 70.0, 35.0, 12.0, 0)),
    ((40.0, 50.0, 30.0, 40.0, 4), (65.5, 80.0, 15.0, 18.0, 2)),
)


def state_dict(shapes):
    """Returns {name: array} of {name: shape}, in detectron2's names and layout."""
    arrays = DRAWN["state_dict"](shapes)
    for name in arrays:
        for part, factor in FACTORS.items():
            arrays[name] *= np.float32(factor if part in name else 1)
    return arrays


def images():
    """Returns RGB images [height, width, 3] uint8: noise of 8 x 8 pixels and of single ones."""
    random = np.random.RandomState(0)
    found = []
    for height, width in SIZES:
        coarse = random.uniform(0, 200, (-(-height // 8), -(-width // 8), 3)).repeat(8, 0).repeat(8, 1)
        found.append((coarse[:height, :width] + random.uniform(0, 55, (height, width, 3))).astype(np.uint8))
    return found


def bitmaps():
    """Returns the objects of each image, [G, height, width] bool."""
    return [
        np.stack([ellipse(*size, *numbers) for *numbers, _ in objects])
        for size, objects in zip(SIZES, OBJECTS, strict=True)
    ]


def ellipse(height, width, y, x, radius_y, radius_x):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((rows - y) / radius_y) ** 2 + ((columns - x) / radius_x) ** 2 <= 1


def boxes():
    """Returns the box around each object, x1, y1, x2, y2, [G, 4] float32 for each image."""
    return [np.array([tight(bitmap) for bitmap in masks], np.float32) for masks in bitmaps()]


def tight(bitmap):
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def classes():
    """Returns the objects' classes, [G] for each image."""
    return [np.array([row[-1] for row in objects]) for objects in OBJECTS]


def choose_evenly(count, limit):
    """Returns the indices of at most `limit` of `count` candidates, evenly spaced."""
    return np.arange(count) if count <= limit else np.arange(limit) * count // limit
