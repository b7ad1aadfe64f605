"""What mmdetection and Paddle call our layers and how arrays lie there: two tables, read in both directions.

Names are mmdetection 3's (https://github.com/open-mmlab/mmdetection, `HybridTaskCascade`, `CascadeRCNN`, `MaskRCNN` and
`FasterRCNN`; version 2 has the same) and those of the Paddle port (https://github.com/laihuihui/htc). Before these
tables `versions` brings a file's names to these; after them `assign` sets variables.

A placeholder runs over whatever the model has, and its first value follows the colon: {s} is 0, 1, 2 ...; {s:1} is
1, 2, 3 ...; {s:a} is a, b, c .... {s:.} is .0, .1, .2 ..., and nothing where there is only one.
"""

import enum
import re
from dataclasses import dataclass

from htc_tf.weights.layouts import KERNEL, MATRIX, VECTOR, deltas, flattened, transposed
from htc_tf.weights.swin_names import CONSTANTS, SWIN_LAYERS


class Framework(enum.IntEnum):
    """Whose names: the column of the tables."""

    MMDET = 0
    PADDLE = 1


@dataclass(frozen=True)
class Index:
    """The i-th of `count`, as a name writes it."""

    i: int
    count: int

    def __format__(self, first):
        if first == ".":
            return f".{self.i}" if self.count > 1 else ""
        if not first.isalpha():
            return str(int(first or 0) + self.i)
        # Letters do not reach for the long stage of a ResNet-101 or -152: a, b1, b2, ... as Caffe named its blocks.
        many = self.count > 10 and self.i > 0
        return f"b{self.i}" if many else chr(ord(first) + self.i)


# fmt: off
# What a layer holds: our variable, mmdetection's name and layout, Paddle's name and layout.
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

# Our layer, mmdetection's module, Paddle's module, what it holds; each block under a heading that the names begin with.
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
    *SWIN_LAYERS,
)
# fmt: on

COUNTER = "num_batches_tracked"  # of every batch norm in PyTorch
# What a file may hold and nothing reads: these counters, a Swin's constants, and the first mask head's 1x1 of the
# information flow, to which nothing flows (mmdetection 1 created it all the same).
UNREAD = re.compile(rf"{COUNTER}$|{CONSTANTS}|^roi_head\.mask_head\.0\.conv_res\.")
