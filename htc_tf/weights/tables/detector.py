"""Neck, RPN and heads: names of their layers in mmdetection and in Paddle.

Norms of mmdetection's ConvModules are named "bn", of whatever kind they are. "fc_norms" is a name of ours: no box head
there has norms after its linear layers.
"""

from htc_tf.weights.tables.kinds import CONVOLUTION, DELTA_CONVOLUTION, DELTA_LINEAR, LINEAR, NORM, POOLED_LINEAR

# fmt: off
LAYERS = (
    (("neck", "neck", "neck"), (
        ("laterals.{l}.convolution",     "lateral_convs.{l}.conv", "lateral_convs.{l}.conv", CONVOLUTION),
        ("laterals.{l}.norm",            "lateral_convs.{l}.bn",   None,                    NORM),
        ("outputs.{l}.convolution",      "fpn_convs.{l}.conv",     "fpn_convs.{l}.conv",    CONVOLUTION),
        ("outputs.{l}.norm",             "fpn_convs.{l}.bn",       None,                    NORM),
    )),
    (("rpn", "rpn_head", "rpn_head"), (
        ("shared.convolution",           "rpn_conv",               "rpn_feat.rpn_conv",     CONVOLUTION),
        ("convs.{c}.convolution",        "rpn_conv.{c}.conv",      None,                    CONVOLUTION),
        ("objectness.convolution",       "rpn_cls",                "rpn_rois_score",        CONVOLUTION),
        ("deltas.convolution",           "rpn_reg",                "rpn_rois_delta",        DELTA_CONVOLUTION),
    )),
    (("semantic_head", "roi_head.semantic_head", "fused_semantic_head"), (
        ("laterals.{l}.convolution",     "lateral_convs.{l}.conv", "lateral_convs.{l}.conv", CONVOLUTION),
        ("laterals.{l}.norm",            "lateral_convs.{l}.bn",   None,                    NORM),
        ("convs.{c}.convolution",        "convs.{c}.conv",         "convs.{c}.conv",        CONVOLUTION),
        ("convs.{c}.norm",               "convs.{c}.bn",           None,                    NORM),
        ("embed.convolution",            "conv_embedding.conv",    "conv_embedding",        CONVOLUTION),
        ("embed.norm",                   "conv_embedding.bn",      None,                    NORM),
        ("predict.convolution",          "conv_logits",            "conv_logits",           CONVOLUTION),
    )),
    (("stages.{s}.box_head", "roi_head.bbox_head{s:.}", "bbox_head"), (
        ("convs.{c}.convolution",        "shared_convs.{c}.conv",  None,                    CONVOLUTION),
        ("convs.{c}.norm",               "shared_convs.{c}.bn",    None,                    NORM),
        ("hidden.0",                     "shared_fcs.0",           "head.{s}.fc6",          POOLED_LINEAR),
        ("hidden.1",                     "shared_fcs.1",           "head.{s}.fc7",          LINEAR),
        ("norms.{c}",                    "fc_norms.{c}",           None,                    NORM),
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
