"""Weights of other frameworks: from a checkpoint file of mmdetection, Paddle or torchvision to our variables, and back.

The walk: `files` and `pickles` read the file as data, `versions` unwraps it and brings its names to those of `names`,
whose tables `assign` follows to our variables; `layouts` says how each array lies here and there. The command is
`htc_tf.convert`, its story `weights.conversion`.
"""

from htc_tf.weights.assign import Unmatched, entries, load_mmdet, load_paddle, mmdet_arrays, paddle_arrays

__all__ = ["Unmatched", "entries", "load_mmdet", "load_paddle", "mmdet_arrays", "paddle_arrays"]
