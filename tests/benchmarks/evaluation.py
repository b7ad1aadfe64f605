"""Benchmarks of mask encoding and of COCO evaluation, both compared with pycocotools' own results."""

import contextlib
import copy
import io
import json
import time

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc_tf.data.synthetic import CLASSES, OBJECTS
from htc_tf.errors import UserError
from htc_tf.evaluation.coco_inputs import FIELDS
from htc_tf.evaluation.evaluator import METRICS, evaluate_results
from htc_tf.inference.results import ImageResult, coco_results
from htc_tf.measurement import measure
from htc_tf.ops.paste import encode_masks, paste_columns
from tests.benchmarks.machine import copy_rate, share_of_limit

DETECTIONS = 100
CORNERS = 24  # of an object's polygon


def run_masks(flags):
    """Measures the pasting and encoding of an image's --batch masks; the limit is that of reading the masks."""
    masks, boxes = draw_objects(flags.batch, flags.height, flags.width)
    image = (flags.height, flags.width)
    large = np.tile(np.float32([0, 0, *image]), (flags.batch, 1))
    before = time.process_time()
    plain = [encode_plainly(mask, box, *image) for mask, box in zip(masks, boxes, strict=True)]
    middle = time.process_time()
    encode_masks(masks, large, *image)
    plain_ms, large_ms = 1e3 * (middle - before), 1e3 * (time.process_time() - middle)
    if encode_masks(masks, boxes, *image) != plain:
        raise UserError("the run lengths differ from those of pycocotools: run tests/ops/test_paste.py")
    found = measure(lambda: encode_masks(masks, boxes, *image), "image", 1, flags.repeats, warmup=2)
    seconds = found.cpu_seconds["median"]
    details = {
        "masks": f"{flags.batch}, boxes of all sizes",
        "every pixel, ms": plain_ms,
        "masks as large as the image, ms": large_ms,
        "share of the limit": share_of_limit("B", masks.nbytes + boxes.nbytes, copy_rate(), seconds),
    }
    return found._replace(details=details)


def draw_objects(count, height, width):
    """Returns masks [n, 28, 28] of ragged blobs, and boxes [n, 4] of all sizes, some partly outside the image."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28] - 13.5
    logits = 6 * (1 - np.hypot(y, x) / draw.uniform(8, 20, (count, 1, 1))) + draw.normal(0, 1, (count, 28, 28))
    centers = draw.uniform(0, [height, width], (count, 2))
    halves = np.exp(draw.uniform(0, np.log(min(height, width)), (count, 2))) / 2
    boxes = np.concatenate([centers - halves, centers + halves], axis=1)
    return (1 / (1 + np.exp(-logits))).astype(np.float32), boxes.astype(np.float32)


def encode_plainly(mask, box, height, width):
    """Draws every pixel of the box into an image of zeros, which pycocotools encodes."""
    image = np.zeros((height, width), np.uint8, order="F")
    columns, top, left = paste_columns(mask, box, height, width)
    image[top : top + columns.shape[1], left : left + columns.shape[0]] = columns.T
    runs = coco_mask.encode(image)
    return {"size": list(runs["size"]), "counts": runs["counts"].decode()}


def run_eval(flags):
    """Measures COCO's 24 metrics of --batch images; the limit is that of reading both files' JSON."""
    draw = np.random.default_rng(0)
    ground_truth = draw_ground_truth(draw, flags.batch, flags.height, flags.width)
    results = [draw_result(draw, ground_truth, image) for image in ground_truth["images"]]
    image_ids = [image["id"] for image in ground_truth["images"]]
    category_ids = [category["id"] for category in ground_truth["categories"]]

    def evaluate():
        return evaluate_results(ground_truth, coco_results(results, image_ids, category_ids), category_ids, image_ids)

    ours = evaluate()
    theirs, plain_seconds = evaluate_plainly(ground_truth, coco_results(results, image_ids, category_ids))
    for name, figure in theirs.items():
        if not np.isclose(ours[name], figure, rtol=0, atol=1e-12):
            raise UserError(f"{name} is {ours[name]}, pycocotools says {figure}: run tests/evaluation")
    found = measure(evaluate, "image", flags.batch, flags.repeats, warmup=0)
    read = len(json.dumps([ground_truth, coco_results(results, image_ids, category_ids)])) / flags.batch
    details = {
        "objects": f"{OBJECTS} per image, {DETECTIONS} detections",
        "metrics": f"{len(theirs)}, equal to pycocotools' own",
        "AP": {kind: ours[f"{kind}/AP"] for kind in FIELDS},
        "pycocotools": {"cpu_seconds": plain_seconds / flags.batch},
        "share of the limit": share_of_limit("B", read, copy_rate(), found.cpu_seconds["median"]),
    }
    return found._replace(details=details)


def evaluate_plainly(ground_truth, results):
    """Evaluates as pycocotools' README does, one kind of results at a time.

    Returns:
        ({name: metric}, CPU seconds)
    """
    metrics, seconds = {}, 0.0
    for kind, field in FIELDS.items():
        data = COCO()
        data.dataset = copy.deepcopy(ground_truth)  # pycocotools changes it
        given = [{name: result[name] for name in ("image_id", "category_id", "score", field)} for result in results]
        before = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            data.createIndex()
            evaluation = COCOeval(data, data.loadRes(given), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        seconds += time.process_time() - before
        metrics |= {f"{kind}/{name}": stat for name, stat in zip(METRICS, evaluation.stats.tolist(), strict=True)}
    return metrics, seconds


def draw_ground_truth(draw, images, height, width):
    """Returns COCO's instances dictionary; the objects are ellipses, as polygons."""
    annotations = []
    for image in range(1, images + 1):
        radii = np.exp(draw.uniform(np.log(6), np.log(min(height, width) / 3), (OBJECTS, 2)))
        centers = draw.uniform(radii, [height, width] - radii)
        for (y, x), (high, wide) in zip(centers, radii, strict=True):
            angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
            polygon = np.stack([x + wide * np.cos(angles), y + high * np.sin(angles)], axis=1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(draw.integers(CLASSES)) + 1,
                    "bbox": [float(v) for v in (x - wide, y - high, 2 * wide, 2 * high)],
                    "area": float(np.pi * high * wide),
                    "iscrowd": 0,
                    "segmentation": [polygon.ravel().tolist()],
                }
            )
    return {
        "images": [{"id": image, "height": height, "width": width} for image in range(1, images + 1)],
        "categories": [{"id": number + 1, "name": f"class {number + 1}"} for number in range(CLASSES)],
        "annotations": annotations,
    }


def draw_result(draw, ground_truth, image):
    """Returns an ImageResult: detections around the image's objects, of the right class and of others.

    Better detections have higher scores as a rule.
    """
    objects = ground_truth["annotations"][(image["id"] - 1) * OBJECTS : image["id"] * OBJECTS]
    owners = draw.integers(OBJECTS, size=DETECTIONS)
    x, y, wide, high = np.array([o["bbox"] for o in objects])[owners].T
    errors = draw.exponential(0.15, DETECTIONS)
    shifts = draw.normal(0, 1, (DETECTIONS, 4)) * errors[:, None] / 2
    boxes = np.stack([y, x, y + high, x + wide], axis=1) + shifts * np.stack([high, wide, high, wide], axis=1)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    boxes = np.clip(boxes, 0, [image["height"], image["width"]] * 2).astype(np.float32)
    right = draw.uniform(size=DETECTIONS) < 0.4
    classes = np.array([o["category_id"] - 1 for o in objects])[owners]
    classes = np.where(right, classes, draw.integers(CLASSES, size=DETECTIONS)).astype(np.int32)
    scores = np.exp(-errors - 2 * ~right) * draw.uniform(0.3, 1, DETECTIONS)
    order = np.argsort(-scores)
    cells = np.hypot(*(np.mgrid[:28, :28] - 13.5))
    masks = 1 / (1 + np.exp(cells - draw.uniform(12, 14, (DETECTIONS, 1, 1))))
    runs = encode_masks(masks.astype(np.float32), boxes[order], image["height"], image["width"])
    return ImageResult(boxes[order], scores[order].astype(np.float32), classes[order], runs)
