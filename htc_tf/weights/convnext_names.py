"""ConvNeXt of its authors (https://github.com/facebookresearch/ConvNeXt) and of mmpretrain: their names here."""

import os
import re

import numpy as np

from htc_tf.errors import UserError

CONVNEXT_MARK = "downsample_layers.0.0.weight"  # in every file of the authors
CLASSIFIER = re.compile(r"(head|norm)\.")
RENAMED = ((".depthwise_conv.", ".dwconv."), (".pointwise_conv", ".pwconv"))  # mmpretrain's name and the authors'


def from_convnext(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the backbone of a ConvNeXt classifier of its authors, which has no output norms."""
    if CONVNEXT_MARK not in arrays:
        raise UserError(f"{path} is not a ConvNeXt of its authors: it lacks {CONVNEXT_MARK}")
    return {f"backbone.{name}": array for name, array in arrays.items() if not CLASSIFIER.match(name)}, []


def rename_convnext(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {the authors' name: array} of a detector of mmdetection, whose ConvNeXt is mmpretrain's."""
    for theirs, ours in RENAMED:
        arrays = {name.replace(theirs, ours): array for name, array in arrays.items()}
    return arrays
