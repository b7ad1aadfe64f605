"""Weights of other frameworks: arrays under the names of mmdetection or Paddle as the variables of a model, and back.

`files` reads a checkpoint's bytes, and `pickles` the pickle in them as data. `versions` unwraps the weights and maps
their names to the names in the tables of `names`. `assign` follows the tables to the variables, whose axes `layouts`
permutes. `conversion` is the work of the command `htc_tf.convert`.
"""

from htc_tf.weights.assign import Unmatched, entries, load_mmdet, load_paddle, mmdet_arrays, paddle_arrays

__all__ = ["Unmatched", "entries", "load_mmdet", "load_paddle", "mmdet_arrays", "paddle_arrays"]
