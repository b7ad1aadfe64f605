"""Swin Transformer: names of its layers in mmdetection; Paddle's network has none."""

from htc_tf.weights.layouts import MERGED_MATRIX, MERGED_VECTOR, TABLE
from htc_tf.weights.tables.kinds import CONVOLUTION, LINEAR, NORM

# fmt: off
MERGED_LINEAR = (("kernel", ("weight", MERGED_MATRIX), None),)
MERGED_NORM = (("gamma", ("weight", MERGED_VECTOR), None), ("beta", ("bias", MERGED_VECTOR), None))
POSITIONS = (("relative_position_bias", ("relative_position_bias_table", TABLE), None),)

LAYERS = (
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

# Constants, which follow from a Swin's sizes; files hold them all the same.
CONSTANTS = r"(relative_position_index|attn_mask)$"
# Norms of the outputs. Classifiers have none, so mmdetection initializes them in detectors.
OUTPUT_NORMS = r"^backbone\.(cb_modules\.\d\.)?norm\d\."
