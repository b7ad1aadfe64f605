"""Mode `roi_align`: RoIs pooled from a pyramid, by both implementations, with adaptive and with fixed sampling.

Before it: `htc_tf.benchmark`. The pyramid P2 to P5 is noise of 256 channels; the RoIs' sizes are log-normal about a
ninth of the image's short side, as proposals are. The maps are prepared once and shared, as a network's stages share
them; that has a row of its own. Both implementations must give the same features, and the same gradients, before they
are timed.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.benchmarks.nms import Row
from htc_tf.errors import UserError
from htc_tf.ops import roi_align as ops
from htc_tf.ops.sampling import count_samples

STRIDES, CHANNELS = (4, 8, 16, 32), 256
RATIOS = {"adaptive": 0, "sampling ratio 2": 2}
IMPLEMENTATIONS = {"crop_and_resize": "crop_and_resize", "XLA": "xla"}


class EvalInputs(NamedTuple):
    rois: int  # an image
    output_size: int
    trains: bool  # whether the gradient of the maps is measured too


CASES = (EvalInputs(1000, 7, False), EvalInputs(100, 14, False), EvalInputs(512, 7, True), EvalInputs(128, 14, True))


def run(work):
    """Work -> Measurement of the model's default, crop_and_resize with adaptive sampling, 1000 RoIs at 7 x 7; its
    details have a Row for each variant of each case."""
    maps = draw_maps(work.batch, work.height, work.width)
    rate, found, details, prepared = copy_rate(), {}, {}, {}
    for title, name in IMPLEMENTATIONS.items():
        prepare = tf.function(lambda name=name: ops.prepare(maps, name), autograph=False)
        prepared[title] = [tf.identity(tensor) for tensor in prepare()]
        moved = 2 * sum(one.shape.num_elements() * one.dtype.size for one in maps)
        took = measure(prepare, "call", 1, work.repeats, 2, {})
        details[f"maps prepared, {title}"] = Row(took, Share("B", moved, rate, took.cpu_seconds["median"]))
    for case in CASES:
        boxes = draw_boxes(work.batch, case.rois, work.height, work.width)
        for sampling, ratio in RATIOS.items():
            calls = {title: make_call(case, ratio, prepared[title], name) for title, name in IMPLEMENTATIONS.items()}
            title = f"{case.rois} at {case.output_size} x {case.output_size}, {sampling}"
            check(title, work.batch, maps, *(call(boxes) for call in calls.values()))
            moved = count_bytes(boxes, case, ratio)
            for way, call in calls.items():
                took = measure(lambda call=call: call(boxes), "call", 1, work.repeats, 2, {})  # noqa: B023
                name = f"{title}, {way}" + (", forward and backward" if case.trains else "")
                found[name] = took
                details[name] = Row(took, Share("B", moved, rate, took.cpu_seconds["median"]))
    details["equal"] = "both implementations give the same features and gradients"
    return next(iter(found.values()))._replace(details=details)


def draw_maps(images, height, width):
    """P2 ... P5: a list of [B, h_l, w_l, C] float32."""
    shapes = [(images, -(-height // stride), -(-width // stride), CHANNELS) for stride in STRIDES]
    return [tf.random.stateless_normal(shape, [0, number]) for number, shape in enumerate(shapes)]


def draw_boxes(images, rois, height, width):
    """[B, N, 4] in pixels, inside of the image."""
    draw = np.random.default_rng(0)
    short = min(height, width)
    size = np.clip(np.exp(draw.normal(np.log(0.1125 * short), 0.9, (images, rois, 1))), short / 100, 1.5 * short)
    aspect = np.exp(draw.normal(0, 0.25, (images, rois, 1)))
    halves = np.concatenate([size * aspect, size / aspect], axis=-1) / 2
    middles = draw.uniform(0, [height, width], (images, rois, 2))
    boxes = np.concatenate([middles - halves, middles + halves], axis=-1)
    boxes = np.clip(boxes, 0, [height, width, height, width])
    boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    return tf.constant(boxes, tf.float32)


def make_call(case, ratio, prepared, implementation):
    """-> a compiled function: boxes [B, N, 4] -> [pooled], or also the gradients of the prepared maps."""

    def call(boxes):
        maps = [tensor for tensor in prepared if tensor.dtype == tf.float32]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            if case.trains:
                tape.watch(maps)
            levels = ops.levels(boxes, count=len(STRIDES))
            pooled = ops.roi_align(prepared, STRIDES, boxes, levels, case.output_size, ratio, implementation)
        return [pooled, *(tape.gradient(pooled, maps, pooled) if case.trains else [])]

    return tf.function(call, autograph=False)


def count_bytes(boxes, case, ratio):
    """What must be read and written at least: the cells under each RoI once, and the pooled; in training also each
    cell's gradient, read and written, and that of the pooled."""
    levels = ops.levels(boxes, count=len(STRIDES))
    extents = (boxes[..., 2:] - boxes[..., :2]) / tf.gather(tf.constant(STRIDES, tf.float32), levels)[..., None]
    taps = count_samples(extents, case.output_size) + 1 if ratio == 0 else tf.fill(tf.shape(extents), 2.0 * ratio)
    touched = tf.minimum(case.output_size * taps, tf.math.ceil(extents) + 1)
    cells = float(tf.reduce_sum(tf.reduce_prod(touched, axis=-1)))
    pooled = levels.shape.num_elements() * case.output_size**2
    return 4 * CHANNELS * (cells + pooled + (2 * cells + pooled if case.trains else 0))


def check(title, images, maps, cropped, compiled):
    """Raises UserError where crop_and_resize and XLA differ in features, or in gradients once the padding is off."""
    pairs = [(cropped[0], compiled[0])]
    if len(compiled) > 1:
        parts = tf.split(compiled[1], [m.shape[1] * m.shape[2] for m in maps], axis=1)
        pairs += [
            (one[:, 1:-1, 1:-1], tf.reshape(p, m.shape)) for one, p, m in zip(cropped[1:], parts, maps, strict=True)
        ]
    for one, other in pairs:
        if not float(tf.reduce_max(tf.abs(one - other))) <= 1e-4 * float(tf.reduce_max(tf.abs(other))):
            raise UserError(f"{title}: the two implementations differ: run tests/ops/test_roi_align.py")
