"""Mode `nms`: from many overlapping boxes to proposals, and to detections, in graph mode and under XLA.

Before it: `htc_tf.benchmark`. Five levels of 1000 candidates lie about 300 objects, as the RPN leaves them; the final
boxes and scores are those of mode `postprocess`, more than half of whose 80,000 scores an image are candidates. Both
ways must find the same before they are timed.
"""

import numpy as np
import tensorflow as tf

from htc_tf.benchmarks.machine import Share, copy_rate
from htc_tf.benchmarks.measure import measure
from htc_tf.benchmarks.postprocess import draw_stages
from htc_tf.errors import UserError
from htc_tf.models.postprocess import Postprocess
from htc_tf.ops.nms import select_detections, select_proposals

LEVELS, CANDIDATES, OBJECTS = 5, 1000, 300
KEEP = {"proposals": 1000, "final": 100}
WAYS = {"graph": "combined", "XLA": "xla"}


def run(work):
    """Work -> Measurement of the proposals of a batch in graph mode; its details have a Row for each way of both."""
    usual = Postprocess()
    stages = draw_stages(work.batch, work.height, work.width)
    proposals = *draw_candidates(work.batch, work.height, work.width), 0.7, KEEP["proposals"]
    scores = usual.scores(stages)
    final = (stages[-1].boxes, scores, stages[-1].rois.valid, usual.score_threshold, usual.nms_threshold, KEEP["final"])
    rate, found, details = copy_rate(), {}, {}
    for part, select, arguments in (("proposals", select_proposals, proposals), ("final", select_detections, final)):
        tensors, settings = arguments[:3], arguments[3:]
        calls = {
            way: tf.function(
                lambda *tensors, select=select, settings=settings, name=name: select(*tensors, *settings, name),
                jit_compile=way == "XLA" or None,
                autograph=False,
            )
            for way, name in WAYS.items()
        }
        check(part, *(call(*tensors) for call in calls.values()))
        size = sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)
        for way, call in calls.items():
            name = f"{part}, {way}"
            found[name] = measure(lambda call=call: call(*tensors).scores.numpy(), "batch", 1, work.repeats, 2, {})  # noqa: B023
            details[name] = Row(found[name], Share("B", size, rate, found[name].cpu_seconds["median"]))
    candidates = np.count_nonzero(scores.numpy() > usual.score_threshold) / work.batch
    details["candidates"] = f"{LEVELS} x {CANDIDATES} for proposals, {candidates:,.0f} an image at last"
    details["equal"] = "both ways find the same boxes and scores"
    return found["proposals, graph"]._replace(details=details)


class Row(dict):
    """What a variant took, for the JSON; as text, a line of the table."""

    def __init__(self, measurement, share):
        seconds = (measurement.cpu_seconds, measurement.wall_seconds)
        super().__init__(cpu_seconds=seconds[0], wall_seconds=seconds[1], share_of_the_limit=share)

    def __str__(self):
        cpu, wall = self["cpu_seconds"], self["wall_seconds"]
        return (
            f"CPU {1e3 * cpu['median']:.1f} ms at the median, {1e3 * cpu['minimum']:.1f} at least; wall "
            f"{1e3 * wall['median']:.1f}; {self['share_of_the_limit']}"
        )


def draw_candidates(images, height, width):
    """Boxes [B, L, n, 4] about some objects, each level's by falling score, scores [B, L, n] and valid [B, L, n]."""
    draw = np.random.default_rng(0)
    shape = (images, LEVELS, CANDIDATES)
    centres = draw.uniform(0, [height, width], (images, LEVELS, OBJECTS, 2))
    scales = min(height, width) / 8 * np.exp(draw.normal(0, 0.8, (images, LEVELS, OBJECTS, 1)))
    sides = scales * np.exp(draw.normal(0, 0.4, (images, LEVELS, OBJECTS, 2)))
    owners = draw.integers(OBJECTS, size=(*shape, 1))
    sides = np.take_along_axis(sides, owners, axis=2) * np.exp(draw.normal(0, 0.2, (*shape, 2)))
    middles = np.take_along_axis(centres, owners, axis=2) + draw.normal(0, 0.18, (*shape, 2)) * sides
    boxes = np.concatenate([middles - sides / 2, middles + sides / 2], axis=-1)
    boxes = np.clip(boxes, 0, [height, width, height, width]).astype(np.float32)
    scores = np.sort(draw.permutation(np.prod(shape)).reshape(shape).astype(np.float32), axis=-1)[..., ::-1]
    return tf.constant(boxes), tf.constant((scores + 1) / (np.prod(shape) + 1)), tf.ones(shape, tf.bool)


def check(part, found, other):
    """Raises UserError where two ways do not select the same."""
    for name in ("valid", "scores", "boxes"):
        if not np.array_equal(getattr(found, name), getattr(other, name)):
            raise UserError(f"{part}: the two ways select other {name}: run tests/ops/test_nms.py")
