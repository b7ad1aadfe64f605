"""Mode `postprocess`: from the last stage's boxes and all stages' class logits to the detections of an image.

Before it: `htc_tf.benchmark`. 1000 boxes of 80 classes lie about 40 objects, as a trained network leaves them; more
than half of their scores are above the threshold of 0.001. Both ways of NMS are timed, and must find what a plain one
finds, class by class in NumPy. Masks are not in it: mode `masks` has them.
"""

import numpy as np
import tensorflow as tf

from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.errors import UserError
from htc_tf.models.postprocess import Postprocess
from htc_tf.structures import RoIs, StageOutput

BOXES, CLASSES, STAGES = 1000, 80, 3
OBJECTS = 40


def run(work):
    """Work -> Measurement of an image by the default, in graph mode; its details have a Row for XLA."""
    stages = draw_stages(work.batch, work.height, work.width)
    ways = {name: Postprocess(xla=name == "XLA") for name in ("graph", "XLA")}
    calls = {name: tf.function(way, jit_compile=name == "XLA", autograph=False) for name, way in ways.items()}
    scores = ways["graph"].scores(stages).numpy()
    plain = [select_plainly(*arrays, ways["graph"]) for arrays in zip(stages[-1].boxes.numpy(), scores, strict=True)]
    for name, call in calls.items():
        check(name, call(stages), plain)
    found = {
        name: measure(lambda call=call: call(stages).scores.numpy(), "image", work.batch, work.repeats, 2, {})
        for name, call in calls.items()
    }
    read = sum(stage.logits.shape.num_elements() for stage in stages) + stages[-1].boxes.shape.num_elements()
    details = {
        "candidates": f"{(scores > ways['graph'].score_threshold).sum() / work.batch:,.0f} an image",
        "equal": "both ways find what plain NMS does, class by class",
        "XLA": Row(found["XLA"].cpu_seconds),
        "share of the limit": Share("B", 4 * read / work.batch, copy_rate(), found["graph"].cpu_seconds["median"]),
    }
    return found["graph"]._replace(details=details)


class Row(dict):
    """CPU seconds of one way, for the JSON; as text, a line of the table."""

    def __str__(self):
        return f"CPU {1e3 * self['median']:.2f} ms at the median, {1e3 * self['p10']:.2f} to {1e3 * self['p90']:.2f}"


def draw_stages(images, height, width):
    """A StageOutput for each stage, as far as Postprocess looks."""
    draw = np.random.default_rng(0)
    logits, boxes = np.empty((STAGES, images, BOXES, CLASSES + 1), np.float32), np.empty((images, BOXES, 4), np.float32)
    for image in range(images):
        centres = draw.uniform(0, [height, width], (OBJECTS, 2))
        scales = min(height, width) / 8 * np.exp(draw.normal(0, 0.8, (OBJECTS, 1)))
        sides = scales * np.exp(draw.normal(0, 0.4, (OBJECTS, 2)))
        owners = draw.integers(OBJECTS, size=BOXES)
        middles = centres[owners] + draw.normal(0, 0.18, (BOXES, 2)) * sides[owners]
        halves = sides[owners] * np.exp(draw.normal(0, 0.2, (BOXES, 2))) / 2
        corners = np.concatenate([middles - halves, middles + halves], axis=1)
        boxes[image] = np.clip(corners, 0, [height, width, height, width])
        common = draw.normal(0, 1.5, (BOXES, CLASSES + 1))
        common[:, CLASSES] += 4
        common[np.arange(BOXES), draw.integers(CLASSES, size=OBJECTS)[owners]] += draw.normal(4, 2, BOXES)
        logits[:, image] = common + draw.normal(0, 0.3, (STAGES, BOXES, CLASSES + 1))
    rois = RoIs(tf.constant(boxes), tf.ones([images, BOXES], tf.bool))
    target_stds = (0.033, 0.033, 0.067, 0.067)
    deltas = tf.zeros([images, BOXES, 4])
    return [StageOutput(rois, target_stds, tf.constant(one), deltas, tf.constant(boxes)) for one in logits]


def select_plainly(boxes, scores, way):
    """NMS of each class by itself, greedy: boxes [N, 4], scores [N, K] -> [(score, class), ...], best first."""
    found = []
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        order = order[scores[order, label] > way.score_threshold]
        kept = 0
        while len(order) and kept < way.keep:
            best, order = order[0], order[1:]
            found.append((scores[best, label], label))
            order = order[overlaps(boxes[best], boxes[order]) <= way.nms_threshold]
            kept += 1
    return sorted(found, reverse=True)[: way.keep]


def overlaps(box, others):
    """IoU of a box [4] with others [n, 4] -> [n]"""
    shared = np.prod(np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, 1e-6)


def check(name, found, plain):
    """Raises UserError where Detections are not those of `select_plainly`, an entry for each image."""
    for scores, classes, valid, wanted in zip(found.scores, found.classes, found.valid, plain, strict=True):
        pairs = list(zip(scores.numpy()[valid], classes.numpy()[valid], strict=True))
        if not np.allclose(pairs, wanted, rtol=0, atol=1e-6):
            raise UserError(f"{name}: the detections are not those of plain NMS: run tests/ops/test_nms.py")
