"""HRNet and its neck: names of their layers in mmdetection; Paddle's network has none."""

from htc_tf.weights.tables.kinds import CONVOLUTION, NORM

# fmt: off
BLOCK = (
    ("body.{c}.convolution",             "conv{c:1}",              None,                    CONVOLUTION),
    ("body.{c}.norm",                    "bn{c:1}",                None,                    NORM),
    ("shortcut.convolution",             "downsample.0",           None,                    CONVOLUTION),
    ("shortcut.norm",                    "downsample.1",           None,                    NORM),
)
LAYERS = (
    (("backbone", "backbone", "backbone"), (
        ("conv1.convolution",            "conv1",                  None,                    CONVOLUTION),
        ("conv1.norm",                   "bn1",                    None,                    NORM),
        ("conv2.convolution",            "conv2",                  None,                    CONVOLUTION),
        ("conv2.norm",                   "bn2",                    None,                    NORM),
        ("first_branch.convolution",     "transition1.0.0",        None,                    CONVOLUTION),
        ("first_branch.norm",            "transition1.0.1",        None,                    NORM),
        ("new_branches.{t}.convolution", "transition{t:1}.{t:1}.0.0", None,                 CONVOLUTION),
        ("new_branches.{t}.norm",        "transition{t:1}.{t:1}.0.1", None,                 NORM),
    )),
    (("backbone.bottlenecks.{b}", "backbone.layer1.{b}", "backbone"), BLOCK),
    (("backbone.stages.{s}.{m}.branches.{b}.{k}", "backbone.stage{s:2}.{m}.branches.{b}.{k}", "backbone"), BLOCK),
    (("backbone.stages.{s}.{m}.fusions.{i}.{j}", "backbone.stage{s:2}.{m}.fuse_layers.{i}.{j}", "backbone"), (
        ("up.convolution",               "0",                      None,                    CONVOLUTION),
        ("up.norm",                      "1",                      None,                    NORM),
        ("down.{k}.convolution",         "{k}.0",                  None,                    CONVOLUTION),
        ("down.{k}.norm",                "{k}.1",                  None,                    NORM),
    )),
    # The convolutions of the levels are in `detector.LAYERS`, with those of an FPN.
    (("neck", "neck", "neck"), (
        ("reduction.convolution",        "reduction_conv.conv",    None,                    CONVOLUTION),
    )),
)
# fmt: on
