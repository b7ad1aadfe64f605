"""detectron2 (https://github.com/facebookresearch/detectron2): its names as those of the tables, and back.

Its networks with ResNets read BGR images, so the first convolution has its input channels in this order; ours read RGB.
"""

import os
import re

import numpy as np

from htc_tf.weights.files import reading
from htc_tf.weights.names import COUNTER, Index

# (module there, module in the tables), with the placeholders of `names`: {s:2} counts from 2, and {s:.} is .0, .1, ...
# in a cascade and nothing in a single stage. The last part of a name, such as weight, is the same in both.
MODULES = (
    ("backbone.bottom_up.stem.conv1", "backbone.conv1"),
    ("backbone.bottom_up.stem.conv1.norm", "backbone.bn1"),
    ("backbone.bottom_up.res{s:2}.{b}.conv{c:1}", "backbone.layer{s:1}.{b}.conv{c:1}"),
    ("backbone.bottom_up.res{s:2}.{b}.conv{c:1}_offset", "backbone.layer{s:1}.{b}.conv{c:1}.conv_offset"),
    ("backbone.bottom_up.res{s:2}.{b}.conv{c:1}.norm", "backbone.layer{s:1}.{b}.bn{c:1}"),
    ("backbone.bottom_up.res{s:2}.{b}.shortcut", "backbone.layer{s:1}.{b}.downsample.0"),
    ("backbone.bottom_up.res{s:2}.{b}.shortcut.norm", "backbone.layer{s:1}.{b}.downsample.1"),
    ("backbone.fpn_lateral{l:2}", "neck.lateral_convs.{l}.conv"),
    ("backbone.fpn_lateral{l:2}.norm", "neck.lateral_convs.{l}.bn"),
    ("backbone.fpn_output{l:2}", "neck.fpn_convs.{l}.conv"),
    ("backbone.fpn_output{l:2}.norm", "neck.fpn_convs.{l}.bn"),
    ("proposal_generator.rpn_head.conv", "rpn_head.rpn_conv"),
    ("proposal_generator.rpn_head.conv.conv{c}", "rpn_head.rpn_conv.{c}.conv"),
    ("proposal_generator.rpn_head.objectness_logits", "rpn_head.rpn_cls"),
    ("proposal_generator.rpn_head.anchor_deltas", "rpn_head.rpn_reg"),
    ("roi_heads.box_head{s:.}.conv{c:1}", "roi_head.bbox_head{s:.}.shared_convs.{c}.conv"),
    ("roi_heads.box_head{s:.}.conv{c:1}.norm", "roi_head.bbox_head{s:.}.shared_convs.{c}.bn"),
    ("roi_heads.box_head{s:.}.fc{c:1}", "roi_head.bbox_head{s:.}.shared_fcs.{c}"),
    ("roi_heads.box_predictor{s:.}.cls_score", "roi_head.bbox_head{s:.}.fc_cls"),
    ("roi_heads.box_predictor{s:.}.bbox_pred", "roi_head.bbox_head{s:.}.fc_reg"),
    ("roi_heads.mask_head.mask_fcn{c:1}", "roi_head.mask_head.convs.{c}.conv"),
    ("roi_heads.mask_head.mask_fcn{c:1}.norm", "roi_head.mask_head.convs.{c}.bn"),
    ("roi_heads.mask_head.deconv", "roi_head.mask_head.upsample"),
    ("roi_heads.mask_head.predictor", "roi_head.mask_head.conv_logits"),
)
PLACEHOLDER = re.compile(r"{(\w):?([\d.]?)}")
BOTTOM_UP = "backbone.bottom_up."
STEM, TABLE_STEM = f"{BOTTOM_UP}stem.conv1.weight", "backbone.conv1.weight"
VITDET = re.compile(r"backbone\.(net|simfp_\d)\.")
# Constants and counters: anchors, pixel statistics.
UNREAD = re.compile(rf"proposal_generator\.anchor_generator\.|pixel_(mean|std)$|.*\.{COUNTER}$")

# From the names of Caffe2, which spells those of norms in two ways, to those of detectron2's ResNet.
CAFFE2 = (
    (r"^(res_)?conv1_", "stem.conv1."),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut."),
    (r"^(res\d)_(\d+)_branch2a_", r"\1.\2.conv1."),
    (r"^(res\d)_(\d+)_branch2b_", r"\1.\2.conv2."),
    (r"^(res\d)_(\d+)_branch2c_", r"\1.\2.conv3."),
    (r"\.bn_(gamma|s)$", ".norm.weight"),
    (r"\.bn_(beta|b)$", ".norm.bias"),
    (r"\.bn_(running_mean|rm)$", ".norm.running_mean"),
    (r"\.bn_(running_var|riv)$", ".norm.running_var"),
    (r"\.w$", ".weight"),
)
# The classifier, the state of its optimizer, and a bias before the first norm, which detectron2 does not read either.
CAFFE2_UNREAD = re.compile(r"(fc1000|pred)_[wb]$|conv1_b$|.*_momentum$")


def from_detectron2(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads a detector of detectron2 with a feature pyramid; a name that no row of `MODULES` has stays as it is.

    Args:
        arrays: {detectron2's name: array}.
        path: Path of the file, for messages.
    Returns:
        {name of the tables: array}, and a list of notes for the user.
    """
    with reading(path):
        flipped = flip_stem(arrays, STEM) if is_bgr(arrays) else arrays
        return {rename(name, 0): array for name, array in flipped.items() if not UNREAD.match(name)}, []


def from_caffe2(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads an ImageNet ResNet that detectron2 trains from, such as its MSRA/R-50.pkl, without its last layer."""
    named = {name: array for name, array in arrays.items() if not CAFFE2_UNREAD.match(name)}
    return from_detectron2({f"{BOTTOM_UP}{rename_caffe2(name)}": array for name, array in named.items()}, path)


def rename_caffe2(name: str) -> str:
    """Returns the name in detectron2's ResNet of a name such as "res2_0_branch2a_bn_gamma" or "conv1_w"."""
    for pattern, replacement in CAFFE2:
        name = re.sub(pattern, replacement, name)
    return name


def to_detectron2(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {detectron2's name: array} of {name of the tables: array}, for a network that reads BGR images."""
    flipped = flip_stem(arrays, TABLE_STEM)
    return {rename(name, 1): array for name, array in flipped.items() if not UNREAD.match(name)}


def has_name(name: str) -> bool:
    """Returns True if detectron2 has a counterpart of a name of the tables, in which ViTDet has detectron2's names."""
    return bool(VITDET.match(name)) or rename(name, 1) != name


def is_bgr(arrays: dict[str, np.ndarray]) -> bool:
    """Returns True if the network reads BGR images: blue has the smallest mean. A file without the means is BGR."""
    mean = np.ravel(arrays.get("pixel_mean", [0, 0, 1]))
    return mean[0] < mean[-1]


def flip_stem(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns the arrays with the input channels of the first convolution, [out, 3, 7, 7], in reverse order."""
    return arrays | {name: arrays[name][:, ::-1]} if name in arrays else arrays


def rename(name: str, column: int) -> str:
    """Returns the counterpart of a name in a column of `MODULES`, or the name itself if no row has it."""
    module, _, leaf = name.rpartition(".")
    for pattern, first, counterpart in PATTERNS[column]:
        if match := pattern.fullmatch(module):
            texts = match.groupdict().items()
            indices = {key: Index(int(text.strip(".") or 0) - first[key], 2 if text else 1) for key, text in texts}
            return f"{counterpart.format(**indices)}.{leaf}"
    return name


def compile_module(template: str) -> tuple[re.Pattern[str], dict[str, int]]:
    """Returns the pattern of a module, and {placeholder: the first value of its index}."""
    pattern, first = re.escape(PLACEHOLDER.sub("<>", template)), {}
    for key, start in PLACEHOLDER.findall(template):
        pattern = pattern.replace("<>", rf"(?P<{key}>(\.\d+)?)" if start == "." else rf"(?P<{key}>\d+)", 1)
        first[key] = int(start.strip(".") or 0)
    return re.compile(pattern), first


# For each column, rows of the pattern of its module, the first values, and the module of the other column.
PATTERNS = tuple([(*compile_module(row[column]), row[1 - column]) for row in MODULES] for column in (0, 1))
