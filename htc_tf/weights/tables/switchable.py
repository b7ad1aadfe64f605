"""DetectoRS, switchable convolution and recursive pyramid: names of their layers in mmdetection; Paddle has none."""

from htc_tf.weights.layouts import KERNEL
from htc_tf.weights.tables import resnet
from htc_tf.weights.tables.kinds import CONVOLUTION, NORM

SECOND = "neck.rfp_modules.0"  # mmdetection's name of the backbone in the neck

# fmt: off
STANDARDIZED = (
    ("kernel_deviation",  ("weight_gamma", KERNEL), None),
    ("kernel_mean",       ("weight_beta", KERNEL),  None),
    ("kernel_difference", ("weight_diff", KERNEL),  None),
)
BACKBONE = (
    (("backbone", "backbone", "backbone"), (
        ("stem.convolution",             "conv1",                  None,                    STANDARDIZED),
    )),
    (("backbone.stages.{s}.{b}", "backbone.layer{s:1}.{b}", "backbone"), (
        ("body.{c}.convolution",         "conv{c:1}",              None,                    STANDARDIZED),
        ("body.{c}.convolution.switch",  "conv{c:1}.switch",       None,                    CONVOLUTION),
        ("body.{c}.convolution.context_before", "conv{c:1}.pre_context", None,              CONVOLUTION),
        ("body.{c}.convolution.context_after", "conv{c:1}.post_context", None,              CONVOLUTION),
        ("body.{c}.convolution.small_offsets", "conv{c:1}.offset_s", None,                  CONVOLUTION),
        ("body.{c}.convolution.large_offsets", "conv{c:1}.offset_l", None,                  CONVOLUTION),
        ("shortcut.convolution",         "downsample.0",           None,                    STANDARDIZED),
        ("feedback.convolution",         "rfp_conv",               None,                    CONVOLUTION),
    )),
)
NECK = (
    (("neck", "neck", "neck"), (
        ("fpn.laterals.{l}.convolution", "lateral_convs.{l}.conv", None,                    CONVOLUTION),
        ("fpn.laterals.{l}.norm",        "lateral_convs.{l}.bn",   None,                    NORM),
        ("fpn.outputs.{l}.convolution",  "fpn_convs.{l}.conv",     None,                    CONVOLUTION),
        ("fpn.outputs.{l}.norm",         "fpn_convs.{l}.bn",       None,                    NORM),
        ("pooling.branches.0.convolution", "rfp_aspp.aspp.0",      None,                    CONVOLUTION),
        ("pooling.branches.1",           "rfp_aspp.aspp.1",        None,                    CONVOLUTION),
        ("pooling.branches.2",           "rfp_aspp.aspp.2",        None,                    CONVOLUTION),
        ("pooling.branches.3.convolution", "rfp_aspp.aspp.3",      None,                    CONVOLUTION),
        ("fusion.convolution",           "rfp_weight",             None,                    CONVOLUTION),
    )),
)
# fmt: on
IN_NECK = tuple(
    (
        (f"neck.{ours}", theirs.replace("backbone", SECOND), "neck"),
        tuple((path, module, None, held) for path, module, _, held in rows),
    )
    for (ours, theirs, _), rows in (*resnet.LAYERS, *BACKBONE)
)
LAYERS = (*BACKBONE, *NECK, *IN_NECK)

# In layers that an ordinary ResNet lacks; `weights.implied` derives the rest.
ADDED = r"\.(weight_diff|(switch|pre_context|post_context|offset_[sl]|rfp_conv)\.(weight|bias))$"
