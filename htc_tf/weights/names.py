"""Weight names: tables from our layers and variables to the names and layouts of mmdetection and of Paddle.

Names follow mmdetection 3 (https://github.com/open-mmlab/mmdetection: HybridTaskCascade, CascadeRCNN,
MaskRCNN, FasterRCNN and SwinTransformer; version 2 has the same) and the Paddle port
(https://github.com/laihuihui/htc), which has no Swin.

A placeholder stands for an index, and its format for the first value: {s} is 0, 1, 2, ...; {s:1} is 1, 2, 3, ...; {s:a}
is a, b, c, ...; {s:.} is .0, .1, .2, ..., or nothing if the model has only one.
"""

import enum
import re
from dataclasses import dataclass

from htc_tf.weights.layouts import (
    KERNEL,
    MATRIX,
    MERGED_MATRIX,
    MERGED_VECTOR,
    TABLE,
    VECTOR,
    deltas,
    flattened,
    transposed,
)


class Framework(enum.IntEnum):
    """A column of the tables."""

    MMDET = 0
    PADDLE = 1


@dataclass(frozen=True)
class Index:
    """Index of `count` layers, formatted as in a name."""

    i: int
    count: int

    def __format__(self, first):
        if first == ".":
            return f".{self.i}" if self.count > 1 else ""
        if not first.isalpha():
            return str(int(first or 0) + self.i)
        # Letters do not suffice for the long stage of a ResNet-101 or -152: a, b1, b2, ... as Caffe names its blocks.
        many = self.count > 10 and self.i > 0
        return f"b{self.i}" if many else chr(ord(first) + self.i)


# fmt: off
# Variables of a layer: our name, mmdetection's name and layout, Paddle's name and layout.
CONVOLUTION = (
    ("kernel",          ("weight", KERNEL),            ("weight", KERNEL)),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
DELTA_CONVOLUTION = (
    ("kernel",          ("weight", deltas(KERNEL)),    ("weight", deltas(KERNEL))),
    ("bias",            ("bias", deltas(VECTOR)),      ("bias", deltas(VECTOR))),
)
LINEAR = (
    ("kernel",          ("weight", MATRIX),            ("weight", transposed(MATRIX))),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
POOLED_LINEAR = (
    ("kernel",          ("weight", flattened(KERNEL)), ("weight", transposed(flattened(KERNEL)))),
    ("bias",            ("bias", VECTOR),              ("bias", VECTOR)),
)
DELTA_LINEAR = (
    ("kernel",          ("weight", deltas(MATRIX)),    ("weight", transposed(deltas(MATRIX)))),
    ("bias",            ("bias", deltas(VECTOR)),      ("bias", deltas(VECTOR))),
)
NORM = (
    ("gamma",           ("weight", VECTOR),            ("weight", VECTOR)),
    ("beta",            ("bias", VECTOR),              ("bias", VECTOR)),
    ("moving_mean",     ("running_mean", VECTOR),      ("_mean", VECTOR)),
    ("moving_variance", ("running_var", VECTOR),       ("_variance", VECTOR)),
)

# Only in a Swin Transformer, which Paddle's network lacks.
MERGED_LINEAR = (("kernel", ("weight", MERGED_MATRIX), None),)
MERGED_NORM = (("gamma", ("weight", MERGED_VECTOR), None), ("beta", ("bias", MERGED_VECTOR), None))
POSITIONS = (("relative_position_bias", ("relative_position_bias_table", TABLE), None),)

# Layers: our path, mmdetection's module, Paddle's module, variables; the head of a block is the prefix of its names.
LAYERS = (
    (("backbone", "backbone", "backbone"), (
        ("stem.convolution",             "conv1",                  "conv1.conv1.conv",      CONVOLUTION),
        ("stem.norm",                    "bn1",                    "conv1.conv1.norm",      NORM),
    )),
    (("backbone.stages.{s}.{b}", "backbone.layer{s:1}.{b}", "backbone.res{s:2}.res{s:2}{b:a}"), (
        ("body.{c}.convolution",         "conv{c:1}",              "branch2{c:a}.conv",     CONVOLUTION),
        ("body.{c}.offsets",             "conv{c:1}.conv_offset",  "branch2{c:a}.conv.conv_offset", CONVOLUTION),
        ("body.{c}.norm",                "bn{c:1}",                "branch2{c:a}.norm",     NORM),
        ("shortcut.convolution",         "downsample.0",           "short.conv",            CONVOLUTION),
        ("shortcut.norm",                "downsample.1",           "short.norm",            NORM),
    )),
    (("neck", "neck", "neck"), (
        ("laterals.{l}.convolution",     "lateral_convs.{l}.conv", "lateral_convs.{l}.conv", CONVOLUTION),
        ("outputs.{l}.convolution",      "fpn_convs.{l}.conv",     "fpn_convs.{l}.conv",    CONVOLUTION),
    )),
    (("rpn", "rpn_head", "rpn_head"), (
        ("shared.convolution",           "rpn_conv",               "rpn_feat.rpn_conv",     CONVOLUTION),
        ("objectness.convolution",       "rpn_cls",                "rpn_rois_score",        CONVOLUTION),
        ("deltas.convolution",           "rpn_reg",                "rpn_rois_delta",        DELTA_CONVOLUTION),
    )),
    (("semantic_head", "roi_head.semantic_head", "fused_semantic_head"), (
        ("laterals.{l}.convolution",     "lateral_convs.{l}.conv", "lateral_convs.{l}.conv", CONVOLUTION),
        ("convs.{c}.convolution",        "convs.{c}.conv",         "convs.{c}.conv",        CONVOLUTION),
        ("embed.convolution",            "conv_embedding.conv",    "conv_embedding",        CONVOLUTION),
        ("predict.convolution",          "conv_logits",            "conv_logits",           CONVOLUTION),
    )),
    (("stages.{s}.box_head", "roi_head.bbox_head{s:.}", "bbox_head"), (
        ("hidden.0",                     "shared_fcs.0",           "head.{s}.fc6",          POOLED_LINEAR),
        ("hidden.1",                     "shared_fcs.1",           "head.{s}.fc7",          LINEAR),
        ("classifier",                   "fc_cls",                 "bbox_score_stage{s}",   LINEAR),
        ("regressor",                    "fc_reg",                 "bbox_delta_stage{s}",   DELTA_LINEAR),
    )),
    (("stages.{s}.mask_head", "roi_head.mask_head{s:.}", "bbox_head.mask_head.head.{s}"), (
        ("flow_conv.convolution",        "conv_res.conv",          "conv_res.conv",         CONVOLUTION),
        ("convs.{c}.convolution",        "convs.{c}.conv",         "convs.{c}.conv",        CONVOLUTION),
        ("upsample",                     "upsample",               "upsample",              CONVOLUTION),
        ("predict.convolution",          "conv_logits",            "conv_logits",           CONVOLUTION),
    )),
    (("backbone", "backbone", "backbone"), (
        ("embed",                         "patch_embed.projection", None,                    CONVOLUTION),
        ("embed_norm",                    "patch_embed.norm",       None,                    NORM),
        ("norms.{s}",                     "norm{s}",                None,                    NORM),
    )),
    (("backbone.blocks.{s}.{b}", "backbone.stages.{s}.blocks.{b}", "backbone"), (
        ("norm1",                         "norm1",                  None,                    NORM),
        ("attention",                     "attn.w_msa",             None,                    POSITIONS),
        ("attention.qkv",                 "attn.w_msa.qkv",         None,                    LINEAR),
        ("attention.projection",          "attn.w_msa.proj",        None,                    LINEAR),
        ("norm2",                         "norm2",                  None,                    NORM),
        ("expand",                        "ffn.layers.0.0",         None,                    LINEAR),
        ("shrink",                        "ffn.layers.1",           None,                    LINEAR),
    )),
    (("backbone.mergings.{s}", "backbone.stages.{s}.downsample", "backbone"), (
        ("norm",                          "norm",                   None,                    MERGED_NORM),
        ("reduction",                     "reduction",              None,                    MERGED_LINEAR),
    )),
)
# fmt: on

COUNTER = "num_batches_tracked"  # in every batch norm of PyTorch
# A Swin's constants, which follow from its sizes; files hold them all the same.
SWIN_CONSTANTS = r"(relative_position_index|attn_mask)$"
# Norms of a Swin's outputs. Classifiers have none, so mmdetection initializes them in detectors.
SWIN_OUTPUT_NORMS = r"^backbone\.norm\d\."
# Names in files without a variable here: counters, constants, and the 1x1 convolution of the information flow in the
# first mask head, which receives nothing (mmdetection 1 creates it nevertheless).
UNREAD = re.compile(rf"{COUNTER}$|{SWIN_CONSTANTS}|^roi_head\.mask_head\.0\.conv_res\.")
