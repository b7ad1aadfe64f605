"""Sources of weights: a checkpoint file as arrays under the names of mmdetection or Paddle."""

import re
from collections.abc import Callable
from typing import NamedTuple

from htc_tf.data import coco_classes
from htc_tf.errors import UserError
from htc_tf.weights.files import read
from htc_tf.weights.names import SWIN_OUTPUT_NORMS, Framework
from htc_tf.weights.versions import (
    SWIN_MARK,
    from_mmdet,
    from_paddle,
    from_swin,
    from_torchvision,
    state_dict,
)


class Source(NamedTuple):
    """Reader of one --source."""

    read: Callable  # (object in the file, path) -> (arrays, notes), a function of `versions`
    framework: Framework  # of the arrays' names
    marks: tuple  # regular expressions; a file of this source has a name that matches each
    absent: str | None = None  # regular expression of names that this source never has


# The first whose marks a file has is its source.
SOURCES = {
    "paddle": Source(from_paddle, Framework.PADDLE, (r"backbone\.res\d\.", r"rpn_head\.|bbox_head\.")),
    "mmdet": Source(from_mmdet, Framework.MMDET, (r"backbone\.(?!bottom_up\.|body\.)", r"(rpn|roi|bbox|mask)_head\.")),
    "torchvision": Source(
        from_torchvision, Framework.MMDET, (r"conv1\.weight$", r"layer1\.0\."), absent=r"^(?!backbone\.)"
    ),
    "swin": Source(from_swin, Framework.MMDET, (re.escape(SWIN_MARK),), absent=rf"^(?!backbone\.)|{SWIN_OUTPUT_NORMS}"),
}
CLASSIFIERS = r"roi_head\.bbox_head\.(\d\.)?fc_cls\.bias$|bbox_score_stage0\.bias$|bbox_head\.bbox_score_stage0\.bias$"


class Weights(NamedTuple):
    """Content of a checkpoint file."""

    arrays: dict  # {the framework's name: array}
    framework: Framework
    source: str  # key of SOURCES
    class_names: list | None  # of the detector's classes in the order of its outputs, without the background
    notes: list  # of str, for the user


def read_weights(path, source=None, ema=None):
    """Reads the weights in a checkpoint file of another framework.

    Args:
        path: Path of the file.
        source: str, a key of SOURCES, or None to tell it by the names in the file.
        ema: bool, True for the moving averages of the weights, False for the last weights, or None for those that the
            framework itself would load.
    Returns:
        Weights.
    Raises:
        UserError: The file cannot be read, is of another architecture, or lacks the requested averages.
    """
    content = read(path)
    source = source or detect(state_dict(content, path), path)
    arrays, notes = SOURCES[source].read(content, path)
    return Weights(arrays, SOURCES[source].framework, source, class_names(content, arrays), notes)


def detect(names, path):
    """Returns the key of SOURCES by the names in a file."""
    for key, source in SOURCES.items():
        if all(any(re.match(mark, name) for name in names) for mark in source.marks):
            return key
    raise UserError(f"{path} is of another architecture: it has {', '.join(list(names)[:3])}")


def class_names(content, arrays):
    """Returns the classes' names that the file states, COCO's for 81 outputs without any, or None."""
    outputs = next((len(array) for name, array in arrays.items() if re.match(CLASSIFIERS, name)), 0)
    return list(coco_classes.THING_NAMES.values()) if outputs == 81 else None
