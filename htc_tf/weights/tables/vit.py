"""ViT and its simple feature pyramid: names of their layers in detectron2, where one module holds both."""

from htc_tf.weights.layouts import POSITIONS, TABLE
from htc_tf.weights.tables.kinds import CONVOLUTION, LINEAR, NORM

# fmt: off
ABSOLUTE = (("table", ("pos_embed", POSITIONS), None),)
RELATIVE = (("row_offsets", ("rel_pos_h", TABLE), None), ("column_offsets", ("rel_pos_w", TABLE), None))

LAYERS = (
    (("backbone", "backbone", "backbone"), (
        ("patch_embedding",               "net.patch_embed.proj",   None,                    CONVOLUTION),
        ("positions",                     "net",                    None,                    ABSOLUTE),
    )),
    (("backbone.encoder.{b}", "backbone.net.blocks.{b}", "backbone"), (
        ("norm1",                         "norm1",                  None,                    NORM),
        ("attention",                     "attn",                   None,                    RELATIVE),
        ("attention.qkv",                 "attn.qkv",               None,                    LINEAR),
        ("attention.projection",          "attn.proj",              None,                    LINEAR),
        ("norm2",                         "norm2",                  None,                    NORM),
        ("expand",                        "mlp.fc1",                None,                    LINEAR),
        ("shrink",                        "mlp.fc2",                None,                    LINEAR),
    )),
    # The indices are those of a level's Sequential, whose other modules have no weights.
    (("neck", "backbone", "neck"), (
        ("upsamplings.0",                 "simfp_2.0",              None,                    CONVOLUTION),
        ("upsampling_norm",               "simfp_2.1",              None,                    NORM),
        ("upsamplings.1",                 "simfp_2.3",              None,                    CONVOLUTION),
        ("reductions.0.convolution",      "simfp_2.4",              None,                    CONVOLUTION),
        ("reductions.0.norm",             "simfp_2.4.norm",         None,                    NORM),
        ("smoothings.0.convolution",      "simfp_2.5",              None,                    CONVOLUTION),
        ("smoothings.0.norm",             "simfp_2.5.norm",         None,                    NORM),
        ("upsamplings.2",                 "simfp_3.0",              None,                    CONVOLUTION),
        ("reductions.1.convolution",      "simfp_3.1",              None,                    CONVOLUTION),
        ("reductions.1.norm",             "simfp_3.1.norm",         None,                    NORM),
        ("smoothings.1.convolution",      "simfp_3.2",              None,                    CONVOLUTION),
        ("smoothings.1.norm",             "simfp_3.2.norm",         None,                    NORM),
        ("reductions.2.convolution",      "simfp_4.0",              None,                    CONVOLUTION),
        ("reductions.2.norm",             "simfp_4.0.norm",         None,                    NORM),
        ("smoothings.2.convolution",      "simfp_4.1",              None,                    CONVOLUTION),
        ("smoothings.2.norm",             "simfp_4.1.norm",         None,                    NORM),
        ("reductions.3.convolution",      "simfp_5.1",              None,                    CONVOLUTION),
        ("reductions.3.norm",             "simfp_5.1.norm",         None,                    NORM),
        ("smoothings.3.convolution",      "simfp_5.2",              None,                    CONVOLUTION),
        ("smoothings.3.norm",             "simfp_5.2.norm",         None,                    NORM),
    )),
)
# fmt: on

# What a detector adds to a ViT that was trained on ImageNet.
ADDED = r"^backbone\.simfp_|\.rel_pos_[hw]$"
