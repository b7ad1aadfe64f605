"""A checkpoint's object becomes {name: array} under the tables' names, whoever wrapped it, whichever version wrote it.

Comes after `files`, before `assign`.
"""

import re

import numpy as np

from htc_tf.errors import UserError
from htc_tf.weights.files import collect, naming
from htc_tf.weights.swin_names import MARK, from_authors

# The weights' place in a training checkpoint. mmengine puts an average over the training into "state_dict" itself and
# the last weights into "ema_state_dict", so that comes later.
WRAPPERS = ("state_dict", "model", "ema_state_dict", "model_ema")
# What a wrapping module puts before every name; mmcv's buffers beside the weights, of which the plain names are those
# that mmdetection itself would load; and an average's counter.
PARALLEL, AVERAGE, COUNTER = "module.", "ema_", "steps"
INNER_NAMES = "StructuredToParameterName@@"
LONGEST_NAME = 300  # characters
VERSION_1 = re.compile(r"(bbox|mask|semantic)_head\.")
# The convolution that gives a deformable one its offsets, before it became part of that one.
OFFSETS = (".conv2_offset.", ".conv2.conv_offset.")
VERSION_1_NOTE = (
    "these are weights of mmdetection 1, whose anchors and RoIAlign lay up to half a cell of the feature maps beside "
    "today's: detections are a little worse than there until the model is fine-tuned"
)


def state_dict(content, path):
    """The names and what stands for their arrays, out of its wrappers."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(map(is_name, content)):
        raise UserError(f"{path} holds no weights by name, but a {type(content).__name__}")
    named = {name.removeprefix(PARALLEL): value for name, value in content.items()}
    plain = {name: value for name, value in named.items() if not name.startswith(AVERAGE) and name != COUNTER}
    return plain or {name.removeprefix(AVERAGE): value for name, value in named.items()}


def is_name(key):
    """Whether a key can be the name of a weight, and can be printed in a message."""
    return isinstance(key, str) and key.isprintable() and len(key) <= LONGEST_NAME


def from_mmdet(content, path):
    """mmdetection 1, 2 or 3 -> (arrays under mmdetection 3's names, notes for the user)."""
    arrays = collect(state_dict(content, path), path)
    arrays = {name.replace(*OFFSETS): array for name, array in arrays.items()}
    if not any(VERSION_1.match(name) for name in arrays):
        return arrays, []
    with naming(path):  # an array may have another shape than its name says
        renamed = {
            f"roi_head.{name}" if VERSION_1.match(name) else name: background_last(name, array)
            for name, array in arrays.items()
        }
    return renamed, [VERSION_1_NOTE]


def background_last(name, array):
    """The background, mmdetection 1's class 0, goes last in box heads and out of mask heads. The RPN has no classes.

    Source: mmdetection's tools/model_converters/upgrade_model_version.py, whose biases of a mask head and of deltas a
    class lose their last class in place of the first; these lose what their weights lose.
    """
    if ".fc_cls." in name:
        return np.roll(array, -1, axis=0)
    if ".fc_reg." in name and len(array) > 4:  # deltas of every class
        return array[4:]
    if name.startswith("mask_head.") and ".conv_logits." in name:
        return array[1:]
    return array


def from_torchvision(content, path):
    """torchvision's classifier -> (mmdetection's backbone, without the last layer; no notes)."""
    arrays = collect(state_dict(content, path), path)
    return {f"backbone.{name}": array for name, array in arrays.items() if not name.startswith("fc.")}, []


def from_swin(content, path):
    """The Swin Transformer's authors' classifier -> (mmdetection's backbone, its output norms missing; no notes)."""
    arrays = collect(state_dict(content, path), path)
    if MARK not in arrays:
        raise UserError(f"{path} is no Swin Transformer of its authors: it lacks {MARK}")
    with naming(path):
        return from_authors(arrays), []


def from_imagenet(content, path):
    """A classifier of either kind, a Swin or torchvision's ResNet -> (mmdetection's backbone, no notes)."""
    return (from_swin if MARK in state_dict(content, path) else from_torchvision)(content, path)


def from_paddle(content, path):
    """Paddle's -> (the same, its table of inner names aside; no notes)."""
    named = state_dict(content, path)
    return collect({name: value for name, value in named.items() if name != INNER_NAMES}, path), []
