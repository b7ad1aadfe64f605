"""Sources of weights: a checkpoint file as arrays under the names of mmdetection or Paddle."""

import os
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from htc_tf.data import coco_classes
from htc_tf.errors import UserError
from htc_tf.weights.convnext_names import CONVNEXT_MARK, from_convnext
from htc_tf.weights.detectron2_names import from_caffe2, from_detectron2
from htc_tf.weights.files import collect, read
from htc_tf.weights.names import Framework
from htc_tf.weights.swin_names import SWIN_MARK, from_swin
from htc_tf.weights.tables import swin, switchable, vit
from htc_tf.weights.versions import from_mmdet, from_paddle, from_torchvision, from_vit
from htc_tf.weights.wrappers import class_names, unwrap


class Source(NamedTuple):
    """Reader of one --source."""

    read: Callable[..., tuple[dict[str, np.ndarray], list[str]]]  # arguments: {name: array}, path; see `versions`
    framework: Framework  # of the arrays' names
    marks: tuple[str, ...]  # regular expressions; a file of this source has a name that matches each
    absent: str | None = None  # regular expression of names that this source never has


# The first whose marks a file has is its source. Detectors of mmdetection 1 have their heads outside of `roi_head`.
SOURCES = {
    "paddle": Source(from_paddle, Framework.PADDLE, (r"backbone\.res\d\.", r"(rpn|bbox)_head\.")),
    "mmdet": Source(
        from_mmdet,
        Framework.MMDET,
        (r"backbone\.", r"(rpn|roi)_head\.|(bbox|mask)_head\.(\d\.)?(shared_fcs|fc_cls|convs)\."),
    ),
    "detectron2": Source(
        from_detectron2, Framework.MMDET, (r"backbone\.(bottom_up|net)\.", r"roi_heads\.box_predictor\.")
    ),
    "caffe2": Source(from_caffe2, Framework.MMDET, (r"conv1_w$", r"res2_0_branch2a_w$"), absent=r"^(?!backbone\.)"),
    "torchvision": Source(
        from_torchvision,
        Framework.MMDET,
        (r"(conv1|conv1\.0|stem\.0)\.weight$", r"layer1\.0\."),
        absent=rf"^(?!backbone\.)|{switchable.ADDED}",
    ),
    "vit": Source(
        from_vit, Framework.MMDET, (r"pos_embed$", r"blocks\.0\.attn\.qkv\."), absent=rf"^(?!backbone\.)|{vit.ADDED}"
    ),
    "swin": Source(from_swin, Framework.MMDET, (re.escape(SWIN_MARK),), absent=rf"^(?!backbone\.)|{swin.OUTPUT_NORMS}"),
    "convnext": Source(
        from_convnext,
        Framework.MMDET,
        (re.escape(CONVNEXT_MARK), r"stages\.0\.0\.dwconv\."),
        absent=rf"^(?!backbone\.)|{swin.OUTPUT_NORMS}",
    ),
}
CLASSIFIER = r"(roi_head\.bbox_head\.(0\.)?fc_cls|bbox_head\.bbox_score_stage0)\.bias$"  # [classes + 1]
# Marks of other architectures, for the message.
OTHERS = (
    (
        r"backbone\.bottom_up\.|proposal_generator\.",
        "of detectron2, but no Mask or Cascade R-CNN with FPN",
    ),
    (r"backbone\.body\.", "a detector of torchvision"),
    (r"model\.\d+\.", "a YOLO of ultralytics"),
    (r"(model\.)*(encoder|decoder|transformer|backbone\.conv_encoder)\.", "a Transformer such as DETR"),
    (r"(blocks|downsample_layers|stages)\.\d+\.", "another backbone"),
    (r"backbone\.", "another detector or classifier of OpenMMLab"),
)


class Weights(NamedTuple):
    """Content of a checkpoint file."""

    arrays: dict[str, np.ndarray]  # {the framework's name: array}
    framework: Framework
    source: str  # key of SOURCES
    class_names: list[str] | None  # of the detector's classes in the order of its outputs, without the background
    notes: list[str]  # for the user


def read_weights(path: str | os.PathLike, source: str | None = None, ema: bool | None = None) -> Weights:
    """Reads the weights in a checkpoint file of another framework.

    Args:
        path: Path of the file.
        source: str, a key of SOURCES, or None to tell it by the names in the file.
        ema: bool, True for the moving averages of the weights, False for the last weights, or None for those that the
            framework itself would load.
    Returns:
        Weights.
    Raises:
        UserError: The file cannot be read, is of another architecture, lacks the requested averages, or holds NaN.
    """
    content = read(path)
    named, notes = unwrap(content, path, ema)
    source = source or detect(named, path)
    arrays, more = SOURCES[source].read(collect(named, path), path)
    check_finite(arrays, path)
    names = check_classes(class_names(content), arrays)
    return Weights(arrays, SOURCES[source].framework, source, names, [*notes, *more])


def detect(names: Collection[str], path: str | os.PathLike) -> str:
    """Returns the key of SOURCES by the names in a file.

    Raises:
        UserError: The names are those of another architecture.
    """
    for key, source in SOURCES.items():
        if all(any(re.match(mark, name) for name in names) for mark in source.marks):
            return key
    kind = next((f", {kind}" for mark, kind in OTHERS if any(re.match(mark, name) for name in names)), "")
    names = list(names)
    shown = ", ".join(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
    raise UserError(f"{path} is of another architecture{kind}: it has weights such as {shown}")


def check_finite(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> None:
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(f"{path} holds NaN or infinity in {', '.join(bad[:8])}: its training failed")


def check_classes(names: list[str] | None, arrays: dict[str, np.ndarray]) -> list[str] | None:
    """Returns the classes that a file states if the detector has as many, COCO's for 81 outputs, or None.

    Args:
        names: list, or None.
        arrays: {the framework's name: array}.
    """
    classes = next((np.size(array) - 1 for name, array in arrays.items() if re.match(CLASSIFIER, name)), None)
    coco = list(coco_classes.THING_NAMES.values())
    names = coco if names is None else names
    return names if len(names) == classes else None
