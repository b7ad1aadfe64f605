"""Checkpoint versions: from the names in a file to mmdetection 3's or Paddle's names.

Each `from_*` function takes {name: array} of a file and the file's path, for messages, and returns {name: array} under
the names of the tables and a list of notes for the user.
"""

import os
import re

import numpy as np

from htc_tf.weights.composite_names import PARTS, rename_links
from htc_tf.weights.convnext_names import rename_convnext
from htc_tf.weights.files import reading
from htc_tf.weights.swin_names import BACKBONE, SWIN_MARK, rename_swin

VERSION_1 = re.compile(r"(bbox|mask|semantic)_head\.")
# mmdetection 1's convolution for the offsets of a deformable one, later a part of that one.
OFFSETS = (".conv2_offset.", ".conv2.conv_offset.")
# What follows the backbone in a ResNet, and in an HRNet.
CLASSIFIER = re.compile(r"(fc|classifier|incre_modules|downsamp_modules|final_layer)\.")
RES2NET_STEM = "conv1.0.weight"  # in the files of Res2Net's authors, which have the stem's last norm outside of it
VERSION_1_NOTE = (
    "these are weights of mmdetection 1, whose anchors and RoIAlign are shifted by up to half a cell of the feature "
    "maps against the present ones: detections are slightly worse than in mmdetection 1 until the model is fine-tuned"
)
VIT_HEAD = re.compile(r"(cls_token|mask_token|norm|fc_norm|head|decoder\w*)(\.|$)")


def from_mmdet(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads a detector of mmdetection 1, 2 or 3, or one of Swin's authors, which has their names in its backbone."""
    for swins in ((BACKBONE,), PARTS):
        if swins[0] + SWIN_MARK in arrays:
            for prefix in swins:
                swin = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
                others = {name: array for name, array in arrays.items() if not name.startswith(prefix)}
                with reading(path):
                    arrays = rename_swin(swin, prefix) | others
            arrays = rename_links(arrays)
    arrays = rename_convnext({name.replace(*OFFSETS): array for name, array in arrays.items()})
    if not any(VERSION_1.match(name) for name in arrays):
        return arrays, []
    with reading(path):  # an array may have another shape than its name implies
        renamed = {
            f"roi_head.{name}" if VERSION_1.match(name) else name: background_last(name, array)
            for name, array in arrays.items()
        }
    return renamed, [VERSION_1_NOTE]


def background_last(name: str, array: np.ndarray) -> np.ndarray:
    """Moves the background, mmdetection 1's class 0, to the end in box heads and removes it from mask heads.

    The RPN has no classes. Source: mmdetection's tools/model_converters/upgrade_model_version.py, which removes the
    last class from the biases of mask heads and of deltas per class; here they lose the first, as their weights do.
    """
    if ".fc_cls." in name:
        return np.roll(array, -1, axis=0)  # [classes + 1, ...]
    if ".fc_reg." in name and len(array) > 4:  # [4 (classes + 1), ...], deltas per class
        return array[4:]
    if name.startswith("mask_head.") and ".conv_logits." in name:
        return array[1:]
    return array


def from_torchvision(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the backbone of a classifier of torchvision, or of a ResNeXt, Res2Net or HRNet with such names."""
    arrays = {name: array for name, array in arrays.items() if not CLASSIFIER.match(name)}
    if RES2NET_STEM in arrays:
        arrays = {re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.", "stem.", name)): arrays[name] for name in arrays}
    return {BACKBONE + name: array for name, array in arrays.items()}, []


def from_vit(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads a ViT that MAE or timm has trained on ImageNet, without its classifier, tokens and decoder."""
    return {f"{BACKBONE}net.{name}": array for name, array in arrays.items() if not VIT_HEAD.match(name)}, []


def from_paddle(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads a detector of the Paddle port, whose names are those of the tables."""
    return arrays, []
