"""ResNet and ResNeXt: names of their layers in mmdetection and in Paddle."""

from htc_tf.weights.tables.kinds import CONVOLUTION, NORM

# fmt: off
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
)
# fmt: on
