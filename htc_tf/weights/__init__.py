"""Weights of other frameworks: arrays under the names of mmdetection or Paddle as the variables of a model, and back.

`model_zoo` names public files, which `download` fetches. `sources` reads a checkpoint file: `files` reads its bytes
(`other_files` tells what is no checkpoint, `safetensors_files` reads that format) and `pickles` the pickle in them as
data; `wrappers` finds the weights among the rest, averaged ones by choice; `versions` maps their names to the names in
the tables of `names`. `assign` follows the tables to the variables, whose axes `layouts` permutes. `conversion` is the
work of the command `htc_tf.convert`.
"""

import importlib
from typing import Any

__all__ = ["Unmatched", "detectron2_arrays", "entries", "load_mmdet", "load_paddle", "mmdet_arrays", "paddle_arrays"]


def __getattr__(name: str) -> Any:
    """Imports the functions of `assign`, and TensorFlow with them, at their first use."""
    if name in __all__:
        return getattr(importlib.import_module("htc_tf.weights.assign"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
