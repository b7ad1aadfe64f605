"""Mode `eval`: from the detections of many images to COCO's twelve figures of boxes and twelve of masks.

Before it: `htc_tf.benchmark`; --batch is the number of images. Truth and detections are drawn: COCO's number of objects
an image, 100 detections around them, of the right class and of others. pycocotools is then given the same by itself, as
its users do, and must come to the same figures. The limit that it is held against is that of reading both as JSON.
"""

import contextlib
import copy
import io
import json
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc_tf.benchmarks.drawn_records import CLASSES, OBJECTS
from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.errors import UserError
from htc_tf.evaluation.coco_inputs import FIELDS
from htc_tf.evaluation.evaluator import FIGURES, evaluate_results
from htc_tf.inference.results import ImageResult, coco_results
from htc_tf.ops.paste import encode_masks

DETECTIONS = 100
CORNERS = 24  # of an object's polygon


def run(work):
    """Work -> Measurement of an image, of all that are evaluated together."""
    draw = np.random.default_rng(0)
    truth = draw_truth(draw, work.batch, work.height, work.width)
    results = [draw_result(draw, truth, image) for image in truth["images"]]
    image_ids = [image["id"] for image in truth["images"]]
    category_ids = [category["id"] for category in truth["categories"]]

    def evaluate():
        return evaluate_results(truth, coco_results(results, image_ids, category_ids), category_ids, image_ids)

    ours = evaluate()
    theirs, plain_seconds = evaluate_plainly(truth, coco_results(results, image_ids, category_ids))
    for name, figure in theirs.items():
        if not np.isclose(ours[name], figure, rtol=0, atol=1e-12):
            raise UserError(f"{name} is {ours[name]}, pycocotools says {figure}: run tests/engine/evaluation")
    details = {
        "objects": f"{OBJECTS} an image, {DETECTIONS} detections",
        "figures": f"{len(theirs)}, equal to pycocotools' own",
        "AP": f"boxes {ours['bbox/AP']:.3f}, masks {ours['segm/AP']:.3f}",
        "pycocotools": Seconds(cpu_seconds=plain_seconds / work.batch),
    }
    found = measure(evaluate, "image", work.batch, work.repeats, warmup=0, details=details)
    read = len(json.dumps([truth, coco_results(results, image_ids, category_ids)])) / work.batch
    limit = Share("B", read, copy_rate(), found.cpu_seconds["median"])
    return found._replace(details={**details, "share of the limit": limit})


class Seconds(dict):
    """What pycocotools took for an image, for the JSON; as text, a line of the table."""

    def __str__(self):
        return f"{1e3 * self['cpu_seconds']:.2f} ms an image by itself"


def evaluate_plainly(truth, results):
    """As pycocotools' README has it: one kind's results at a time. -> ({name: figure}, CPU seconds)"""
    figures, seconds = {}, 0.0
    for kind, field in FIELDS.items():
        data = COCO()
        data.dataset = copy.deepcopy(truth)  # which it changes
        given = [{name: result[name] for name in ("image_id", "category_id", "score", field)} for result in results]
        before = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            data.createIndex()
            evaluation = COCOeval(data, data.loadRes(given), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        seconds += time.process_time() - before
        figures |= {f"{kind}/{name}": stat for name, stat in zip(FIGURES, evaluation.stats.tolist(), strict=True)}
    return figures, seconds


def draw_truth(draw, images, height, width):
    """COCO's instances dictionary; the objects are ellipses, as polygons."""
    annotations = []
    for image in range(1, images + 1):
        radii = np.exp(draw.uniform(np.log(6), np.log(min(height, width) / 3), (OBJECTS, 2)))
        centres = draw.uniform(radii, [height, width] - radii)
        for (y, x), (high, wide) in zip(centres, radii, strict=True):
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


def draw_result(draw, truth, image):
    """An ImageResult: detections around the image's objects, better ones with higher scores as a rule."""
    objects = truth["annotations"][(image["id"] - 1) * OBJECTS : image["id"] * OBJECTS]
    owners = draw.integers(OBJECTS, size=DETECTIONS)
    x, y, wide, high = np.array([o["bbox"] for o in objects])[owners].T
    errors = draw.exponential(0.15, DETECTIONS)
    shifts = draw.normal(0, 1, (DETECTIONS, 4)) * errors[:, None] / 2
    boxes = np.stack([y, x, y + high, x + wide], axis=1) + shifts * np.stack([high, wide, high, wide], axis=1)
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
