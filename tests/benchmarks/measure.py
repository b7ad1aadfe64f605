"""python -m tests.benchmarks.measure: benchmarks of single operations and of the machine, for the project's makers.

`inference` and `train` add FLOPs, parts and the share of the machine's limit to `python -m htc_tf.benchmark`.
"""

import importlib

from htc_tf import benchmark, measurement
from htc_tf.benchmark import PAPER
from htc_tf.errors import command
from htc_tf.measurement import Mode


def function(name):
    """Returns tests.benchmarks.NAME as a function that imports its module, and TensorFlow, when it is called."""
    module, _, attribute = name.partition(".")
    return lambda flags: getattr(importlib.import_module(f"tests.benchmarks.{module}"), attribute)(flags)


MODES = {
    "inference": Mode("detection, its parts and FLOPs", function("network.run_inference"), gin=PAPER, repeats=5),
    "train": Mode(
        "a training step and its FLOPs",
        function("network.run_training"),
        gin=PAPER,
        repeats=3,
        reads=benchmark.MODES["train"].reads,
        trains=True,
    ),
    "machine": Mode("a matrix product; the limits", function("machine.run")),
    "roi_align": Mode("RoIs pooled by each implementation", function("operations.run_roi_align")),
    "nms": Mode("candidates to proposals and to detections", function("operations.run_nms"), batch=2),
    "postprocess": Mode("boxes and class logits to detections", function("operations.run_postprocess")),
    "masks": Mode("--batch masks pasted and encoded", function("evaluation.run_masks"), 480, 640, 100),
    "eval": Mode("COCO metrics of --batch images", function("evaluation.run_eval"), 480, 640, 100),
    "start": Mode("cold processes: help, first image", function("start.run"), 512, 512, gin=PAPER),
    "environments": Mode("steps in two environments in turns", function("environments.run"), gin=PAPER, repeats=3),
    "mmdetection": Mode("steps beside mmdetection's in turns", function("mmdetection.run"), gin=PAPER, repeats=3),
    "payload": Mode(
        "bytes of an export's answers", function("payload.run"), 480, 640, reads=benchmark.MODES["serving"].reads
    ),
}


def parse():
    return measurement.parse(measurement.make_parser("python -m tests.benchmarks.measure", __doc__, MODES), MODES)


@command
def main():
    measurement.run(parse(), MODES)


if __name__ == "__main__":
    main()
