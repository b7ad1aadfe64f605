"""Ground truth and results of rectangles, for COCO metrics that are known by hand."""

import numpy as np
from pycocotools import mask as coco_mask

SIDE = 200


def rectangle(x, y, width, height):
    """Returns a rectangle as a box and as run lengths."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    runs = coco_mask.encode(mask)
    return [x, y, width, height], {"size": [SIDE, SIDE], "counts": runs["counts"].decode()}


def ground_truth_of(objects, images=(1, 2)):
    """COCO's dictionary of (image_id, category_id, rectangle, iscrowd); annotation ids begin at 0, a pitfall."""
    annotations = []
    for index, (image_id, category_id, where, crowd) in enumerate(objects):
        box, runs = rectangle(*where)
        annotations.append(
            {"id": index, "image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": runs}
            | {"area": box[2] * box[3], "iscrowd": crowd}
        )
    return {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in images],
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "disc"}],
        "annotations": annotations,
    }


def result(image_id, category_id, where, score):
    box, runs = rectangle(*where)
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "segmentation": runs, "score": score}
