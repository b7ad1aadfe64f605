"""Neck, RPN and heads: names of their layers in mmdetection and in Paddle."""

from htc_tf.weights.tables.kinds import CONVOLUTION, DELTA_CONVOLUTION, DELTA_LINEAR, LINEAR, NORM, POOLED_LINEAR

# fmt: off
LAYERS = (
    (("neck", "neck", "neck"), (
        ("laterals.{l}.convolution",     "lateral_convs.{l}.conv", "lateral_convs.{l}.conv", CONVOLUTION),
        ("outputs.{l}.convolution",      "fpn_convs.{l}.conv",     "fpn_convs.{l}.conv",    CONVOLUTION),
    )),
    (("rpn", "rpn_head", "rpn_head"), (
        ("shared.convolution",           "rpn_conv",               "rpn_feat.rpn_conv",     CONVOLUTION),
        ("convs.{c}.convolution",        "rpn_conv.{c}.conv",      None,                    CONVOLUTION),
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
        ("convs.{c}.convolution",        "shared_convs.{c}.conv",  None,                    CONVOLUTION),
        ("convs.{c}.norm",               "shared_convs.{c}.bn",    None,                    NORM),
        ("hidden.0",                     "shared_fcs.0",           "head.{s}.fc6",          POOLED_LINEAR),
        ("hidden.1",                     "shared_fcs.1",           "head.{s}.fc7",          LINEAR),
        ("classifier",                   "fc_cls",                 "bbox_score_stage{s}",   LINEAR),
        ("regressor",                    "fc_reg",                 "bbox_delta_stage{s}",   DELTA_LINEAR),
    )),
    (("mask_heads.{s}", "roi_head.mask_head{s:.}", "bbox_head.mask_head.head.{s}"), (
        ("flow_conv.convolution",        "conv_res.conv",          "conv_res.conv",         CONVOLUTION),
        ("convs.{c}.convolution",        "convs.{c}.conv",         "convs.{c}.conv",        CONVOLUTION),
        ("convs.{c}.norm",               "convs.{c}.bn",           None,                    NORM),
        ("upsample",                     "upsample",               "upsample",              CONVOLUTION),
        ("predict.convolution",          "conv_logits",            "conv_logits",           CONVOLUTION),
    )),
)
# fmt: on
