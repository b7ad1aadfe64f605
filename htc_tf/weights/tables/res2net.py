"""Res2Net: names of its layers in mmdetection; Paddle's network has none."""

from htc_tf.weights.tables.kinds import CONVOLUTION, NORM

# fmt: off
LAYERS = (
    (("backbone.stem", "backbone.stem", "backbone"), (
        ("convs.0.convolution",          "0",                      None,                    CONVOLUTION),
        ("convs.0.norm",                 "1",                      None,                    NORM),
        ("convs.1.convolution",          "3",                      None,                    CONVOLUTION),
        ("convs.1.norm",                 "4",                      None,                    NORM),
        ("convs.2.convolution",          "6",                      None,                    CONVOLUTION),
        ("convs.2.norm",                 "7",                      None,                    NORM),
    )),
    (("backbone.stages.{s}.{b}", "backbone.layer{s:1}.{b}", "backbone"), (
        ("reduce.convolution",           "conv1",                  None,                    CONVOLUTION),
        ("reduce.norm",                  "bn1",                    None,                    NORM),
        ("convs.{c}.convolution",        "convs.{c}",              None,                    CONVOLUTION),
        ("convs.{c}.norm",               "bns.{c}",                None,                    NORM),
        ("expand.convolution",           "conv3",                  None,                    CONVOLUTION),
        ("expand.norm",                  "bn3",                    None,                    NORM),
        ("projection.convolution",       "downsample.1",           None,                    CONVOLUTION),
        ("projection.norm",              "downsample.2",           None,                    NORM),
    )),
)
# fmt: on
