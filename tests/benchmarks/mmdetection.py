"""Benchmark of mmdetection beside htc_tf: the same work on the same machine, with their steps in turns.

HTC_TF_MMDETECTION_PYTHON names the Python of an environment with mmdetection 3, which needs PyTorch and mmcv. Both
networks have random weights, propose the same typical boxes, and have as many positives in each stage; an image of
mmdetection has 2,000 candidates for its NMS, as a trained network has, and not 80,000.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from htc_tf import benchmark
from htc_tf.data.synthetic import draw_boxes
from htc_tf.errors import UserError
from htc_tf.measurement import Measurement, summarize
from htc_tf.process_memory import peak_bytes
from tests.benchmarks.environments import Case, compare, words_of
from tests.benchmarks.figures import MMDETECTION_PYTHON

STEPS = Path(__file__).resolve().parent / "mmdetection_steps.py"
CASES = {"inference of an image": "inference", "training step of an image": "train"}
OBJECTS = 8  # those of `htc_tf.benchmark`
# {IoU with an object: number of such boxes}: 128, 76 and 44 positives of the stages, whose thresholds are 0.5, 0.6 and
# 0.7; the objects' own boxes are positive too.
NEAR = {0.55: 52, 0.65: 32, 0.8: 36}
PROPOSALS = {"inference": 1000, "train": 2000}


def run(flags):
    """Measures both cases; the details hold the figures of both, and the median of the ratios of a round's steps.

    Raises:
        UserError: There is no mmdetection, or a process failed.
    """
    python = os.environ.get(MMDETECTION_PYTHON)
    if not python:
        raise UserError(f"--mode {flags.mode} requires {MMDETECTION_PYTHON}, the path of mmdetection's Python")
    details, seconds = {}, None
    for name, mode in CASES.items():
        case = Case(mode, flags.height, flags.width, 1, 1, (flags.gin_file or [benchmark.PAPER])[-1])
        with tempfile.TemporaryDirectory() as folder:
            load = Path(folder) / "load.npz"
            write_load(load, mode, flags.height, flags.width)
            theirs = [python, str(STEPS), mode, str(flags.height), str(flags.width), str(load)]
            cpu, wall, found = compare(name, [[sys.executable, *words_of(case)], theirs], flags.repeats)
        details[name] = found | {"work": case._asdict()}
        seconds = seconds or (cpu, wall)
    return Measurement("step", *map(summarize, seconds), {"peak": peak_bytes()}, details)


def write_load(path, mode, height, width):
    """Writes the boxes of the RPN and of the ground truth, in x1, y1, x2, y2."""
    truth = draw_boxes(OBJECTS, height, width, seed=1)
    boxes = draw_boxes(PROPOSALS[mode], height, width)
    if mode == "train":
        boxes = offer_positives(boxes, truth, height)
    np.savez(path, boxes=boxes[:, [1, 0, 3, 2]], truth=truth[:, [1, 0, 3, 2]])


def offer_positives(boxes, truth, height):
    """Replaces the first boxes by those of NEAR, and shrinks every other one that would be positive."""
    overlaps = np.repeat(list(NEAR), list(NEAR.values()))
    near = truth[np.arange(len(overlaps)) % len(truth)].copy()
    # A box moved by a share s of its height has IoU (1 - s) / (1 + s) with the object. It moves toward the center,
    # since a stage would cut it at the edge of the image.
    inward = np.sign(height / 2 - (near[:, 0] + near[:, 2]) / 2)
    near[:, [0, 2]] += (inward * (1 - overlaps) / (1 + overlaps) * (near[:, 2] - near[:, 0]))[:, None]
    boxes = boxes[len(near) :].copy()
    positive = iou(boxes, truth).max(axis=1) >= min(NEAR) - 0.1
    boxes[positive, 2:] -= 0.75 * (boxes[positive, 2:] - boxes[positive, :2])
    return np.concatenate([near, boxes])


def iou(boxes, others):
    """Returns [N, M] of boxes [N, 4] and [M, 4]."""
    starts = np.maximum(boxes[:, None, :2], others[:, :2])
    ends = np.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = np.maximum(ends - starts, 0).prod(axis=-1)
    areas = [(some[:, 2:] - some[:, :2]).prod(axis=-1) for some in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared)
