"""Benchmarks of RoIAlign, NMS and postprocessing: each implementation, once both return the same."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.measurement import measure
from htc_tf.models.postprocess import Postprocess
from htc_tf.ops import roi_align as ops
from htc_tf.ops.nms import select_detections, select_proposals
from htc_tf.ops.roi_align_taps import count_samples
from htc_tf.structures import RoIs, StageOutput
from tests.benchmarks.machine import copy_rate, share_of_limit

# The pyramid P2 to P5 of the RoIAlign benchmark.
STRIDES, CHANNELS = (4, 8, 16, 32), 256
RATIOS = {"adaptive": 0, "sampling ratio 2": 2}
IMPLEMENTATIONS = {"crop_and_resize": "crop_and_resize", "XLA": "xla"}
# NMS: candidates per pyramid level, around some objects.
LEVELS, CANDIDATES, CENTERS = 5, 1000, 300
KEEP = {"proposals": 1000, "final": 100}
# Postprocessing: the last stage's boxes, around fewer objects.
BOXES, CLASSES, STAGES, OBJECTS = 1000, 80, 3, 40


class PoolingCase(NamedTuple):
    rois: int  # per image
    output_size: int
    trains: bool  # if True, the gradient of the maps is measured too


CASES = (
    PoolingCase(1000, 7, False),
    PoolingCase(100, 14, False),
    PoolingCase(512, 7, True),
    PoolingCase(128, 14, True),
)


def run_roi_align(flags):
    """Measures both implementations on noise, with adaptive and with fixed sampling.

    The maps are prepared once and shared, as a network's stages share them; that has a row of its own.

    Returns:
        The Measurement of the model's default: crop_and_resize, adaptive sampling, 1000 RoIs at 7 x 7.
    """
    maps = draw_maps(flags.batch, flags.height, flags.width)
    rate, found, prepared = copy_rate(), {}, {}

    def take(name, function, moved):
        found[name] = with_share(measure(function, "call", 1, flags.repeats, 2), moved, rate)

    for title, name in IMPLEMENTATIONS.items():
        prepare = tf.function(lambda name=name: ops.prepare(maps, name), autograph=False)
        prepared[title] = [tf.identity(tensor) for tensor in prepare()]
        moved = 2 * sum(one.shape.num_elements() * one.dtype.size for one in maps)
        take(f"maps prepared, {title}", prepare, moved)
    default = None
    for case in CASES:
        boxes = draw_rois(flags.batch, case.rois, flags.height, flags.width)
        for sampling, ratio in RATIOS.items():
            title = f"{case.rois} at {case.output_size} x {case.output_size}, {sampling}"
            calls = {way: pooling(case, ratio, prepared[way], name) for way, name in IMPLEMENTATIONS.items()}
            check_pooled(title, maps, *(call(boxes) for call in calls.values()))
            for way, call in calls.items():
                name = f"{title}, {way}" + (", forward and backward" if case.trains else "")
                take(name, lambda call=call: call(boxes), bytes_touched(boxes, case, ratio))  # noqa: B023
                default = default or found[name]
    return default._replace(details={name: one.details for name, one in found.items()})


def with_share(measurement, moved, rate):
    """Returns a Measurement whose details are its seconds and the share of copying `moved` bytes."""
    share = share_of_limit("B", moved, rate, measurement.cpu_seconds["median"])
    seconds = {"cpu_seconds": measurement.cpu_seconds, "wall_seconds": measurement.wall_seconds}
    return measurement._replace(details={**seconds, "share_of_the_limit": share})


def draw_maps(images, height, width):
    """Returns P2 ... P5: a list of [B, h_l, w_l, C] float32."""
    shapes = [(images, -(-height // stride), -(-width // stride), CHANNELS) for stride in STRIDES]
    return [tf.random.stateless_normal(shape, [0, number]) for number, shape in enumerate(shapes)]


def draw_rois(images, rois, height, width):
    """Returns [B, N, 4] pixels inside the image; the median size is a ninth of the short side, like proposals."""
    draw = np.random.default_rng(0)
    short = min(height, width)
    size = np.clip(np.exp(draw.normal(np.log(0.1125 * short), 0.9, (images, rois, 1))), short / 100, 1.5 * short)
    aspect = np.exp(draw.normal(0, 0.25, (images, rois, 1)))
    halves = np.concatenate([size * aspect, size / aspect], axis=-1) / 2  # [B, N, 2]
    middles = draw.uniform(0, [height, width], (images, rois, 2))
    boxes = np.concatenate([middles - halves, middles + halves], axis=-1)
    boxes = np.clip(boxes, 0, [height, width, height, width])
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    return tf.constant(boxes, tf.float32)


def pooling(case, ratio, prepared, implementation):
    """Returns a traced function of boxes [B, N, 4]: [pooled], in training also the gradients of the prepared maps."""

    def call(boxes):
        maps = [tensor for tensor in prepared if tensor.dtype == tf.float32]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if case.trains:
                tape.watch(maps)
            levels = ops.levels(boxes, count=len(STRIDES))
            pooled = ops.roi_align(prepared, STRIDES, boxes, levels, case.output_size, ratio, implementation)
        return [pooled, *(tape.gradient(pooled, maps, pooled) if case.trains else [])]

    return tf.function(call, autograph=False)


def bytes_touched(boxes, case, ratio):
    """Returns the least traffic: the cells under each RoI and the output; in training the gradients of both too."""
    levels = ops.levels(boxes, count=len(STRIDES))
    extents = (boxes[..., 2:] - boxes[..., :2]) / tf.gather(tf.constant(STRIDES, tf.float32), levels)[..., None]
    taps = count_samples(extents, case.output_size) + 1 if ratio == 0 else tf.fill(tf.shape(extents), 2.0 * ratio)
    touched = tf.minimum(case.output_size * taps, tf.math.ceil(extents) + 1)  # [B, N, 2] cells along each axis
    cells = float(tf.reduce_sum(tf.reduce_prod(touched, axis=-1)))
    pooled = levels.shape.num_elements() * case.output_size**2
    # A cell's gradient is read and written, the output's is read.
    return 4 * CHANNELS * (cells + pooled + (2 * cells + pooled if case.trains else 0))


def check_pooled(title, maps, cropped, compiled):
    """Raises UserError where the implementations differ in features, or in gradients without the cropped padding."""
    pairs = [(cropped[0], compiled[0])]
    if len(compiled) > 1:
        parts = tf.split(compiled[1], [m.shape[1] * m.shape[2] for m in maps], axis=1)
        cut = [one[:, 1:-1, 1:-1] for one in cropped[1:]]
        pairs += [(one, tf.reshape(part, m.shape)) for one, part, m in zip(cut, parts, maps, strict=True)]
    for one, other in pairs:
        if not float(tf.reduce_max(tf.abs(one - other))) <= 1e-4 * float(tf.reduce_max(tf.abs(other))):
            raise UserError(f"{title}: the two implementations differ: run tests/ops/test_roi_align.py")


def run_nms(flags):
    """Measures the selection of proposals and of final detections, in graph mode and under XLA.

    Returns:
        The Measurement of the proposals in graph mode.
    """
    usual = Postprocess()
    stages = draw_stages(flags.batch, flags.height, flags.width)
    proposals = *draw_candidates(flags.batch, flags.height, flags.width), 0.7, KEEP["proposals"]
    scores = usual.scores(stages)
    final = (stages[-1].boxes, scores, stages[-1].rois.valid, usual.score_threshold, usual.nms_threshold, KEEP["final"])
    rate, found = copy_rate(), {}
    for part, select, arguments in (("proposals", select_proposals, proposals), ("final", select_detections, final)):
        tensors, settings = arguments[:3], arguments[3:]
        moved = sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)

        def call(way, *tensors, select=select, settings=settings):
            return select(*tensors, *settings, way)

        calls = in_both_ways(call, tensors)
        check_selected(part, *(function() for function in calls.values()))
        for way, function in calls.items():
            took = measure(lambda f=function: f().scores.numpy(), "batch", 1, flags.repeats, 2)
            found[f"{part}, {way}"] = with_share(took, moved, rate)
    candidates = int(tf.math.count_nonzero(scores > usual.score_threshold)) / flags.batch
    details = {name: one.details for name, one in found.items()}
    details["candidates"] = f"{LEVELS} x {CANDIDATES} for proposals, {candidates:,.0f} per image for detections"
    return found["proposals, graph"]._replace(details=details)


def in_both_ways(call, tensors):
    """Returns {"graph": function, "XLA": function} that call `call(way, *tensors)` traced and compiled."""
    graph = tf.function(lambda *tensors: call("combined", *tensors), autograph=False)
    compiled = tf.function(lambda *tensors: call("xla", *tensors), jit_compile=True, autograph=False)
    return {"graph": lambda: graph(*tensors), "XLA": lambda: compiled(*tensors)}


def check_selected(part, found, other, atol=0):
    """Raises UserError where two implementations select different boxes."""
    for name in ("valid", "scores", "boxes"):
        if not np.allclose(getattr(found, name), getattr(other, name), rtol=0, atol=atol):
            raise UserError(f"{part}: the two implementations select different {name}: run tests/ops/test_nms.py")


def draw_candidates(images, height, width):
    """Returns boxes [B, L, n, 4], scores [B, L, n], best first in each level, and valid [B, L, n]."""
    draw = np.random.default_rng(0)
    shape = (images, LEVELS, CANDIDATES)
    centers = draw.uniform(0, [height, width], (images, LEVELS, CENTERS, 2))
    scales = min(height, width) / 8 * np.exp(draw.normal(0, 0.8, (images, LEVELS, CENTERS, 1)))
    sides = scales * np.exp(draw.normal(0, 0.4, (images, LEVELS, CENTERS, 2)))
    owners = draw.integers(CENTERS, size=(*shape, 1))
    sides = np.take_along_axis(sides, owners, axis=2) * np.exp(draw.normal(0, 0.2, (*shape, 2)))  # [B, L, n, 2]
    middles = np.take_along_axis(centers, owners, axis=2) + draw.normal(0, 0.18, (*shape, 2)) * sides
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=-1)
    boxes = np.clip(boxes, 0, [height, width, height, width]).astype(np.float32)
    scores = np.sort(draw.permutation(np.prod(shape)).reshape(shape).astype(np.float32), axis=-1)[..., ::-1]
    return tf.constant(boxes), tf.constant((scores + 1) / np.float32(np.prod(shape) + 1)), tf.ones(shape, tf.bool)


def run_postprocess(flags):
    """Measures refined boxes and class logits to an image's detections; the details hold XLA's seconds."""
    stages = draw_stages(flags.batch, flags.height, flags.width)
    graph, compiled = Postprocess(), Postprocess(xla=True)
    # The StageOutputs go in as one argument: their target_stds are no tensors.
    calls = {
        "graph": tf.function(graph, autograph=False),
        "XLA": tf.function(compiled, jit_compile=True, autograph=False),
    }
    check_selected("detections", *(call(stages) for call in calls.values()), atol=1e-6)
    found = {
        way: measure(lambda f=call: f(stages).scores.numpy(), "image", flags.batch, flags.repeats, 2)
        for way, call in calls.items()
    }
    read = sum(stage.logits.shape.num_elements() for stage in stages) + stages[-1].boxes.shape.num_elements()
    candidates = int(tf.math.count_nonzero(graph.scores(stages) > graph.score_threshold)) / flags.batch
    seconds = found["graph"].cpu_seconds["median"]
    details = {
        "candidates": f"{candidates:,.0f} per image",
        "XLA": found["XLA"].cpu_seconds,
        "share of the limit": share_of_limit("B", 4 * read / flags.batch, copy_rate(), seconds),
    }
    return found["graph"]._replace(details=details)


def draw_stages(images, height, width):
    """Returns a StageOutput per stage with the fields that Postprocess reads.

    The boxes lie around objects as a trained network's do; more than half of the scores exceed the threshold of 0.001.
    """
    draw = np.random.default_rng(0)
    logits, boxes = np.empty((STAGES, images, BOXES, CLASSES + 1), np.float32), np.empty((images, BOXES, 4), np.float32)
    for image in range(images):
        centers = draw.uniform(0, [height, width], (OBJECTS, 2))
        scales = min(height, width) / 8 * np.exp(draw.normal(0, 0.8, (OBJECTS, 1)))
        sides = scales * np.exp(draw.normal(0, 0.4, (OBJECTS, 2)))
        owners = draw.integers(OBJECTS, size=BOXES)
        middles = centers[owners] + draw.normal(0, 0.18, (BOXES, 2)) * sides[owners]
        halves = sides[owners] * np.exp(draw.normal(0, 0.2, (BOXES, 2))) / 2
        corners = np.concatenate([middles - halves, middles + halves], axis=1)
        boxes[image] = np.clip(corners, 0, [height, width, height, width])
        common = draw.normal(0, 1.5, (BOXES, CLASSES + 1))
        common[:, CLASSES] += 4  # background
        common[np.arange(BOXES), draw.integers(CLASSES, size=OBJECTS)[owners]] += draw.normal(4, 2, BOXES)
        logits[:, image] = common + draw.normal(0, 0.3, (STAGES, BOXES, CLASSES + 1))
    rois = RoIs(tf.constant(boxes), tf.ones([images, BOXES], tf.bool))
    target_stds = (0.033, 0.033, 0.067, 0.067)
    deltas = tf.zeros([images, BOXES, 4])
    return [StageOutput(rois, target_stds, tf.constant(one), deltas, tf.constant(boxes)) for one in logits]
