"""ConvNeXt: names of its layers in its authors' files, which mmdetection's detectors of it have too."""

from htc_tf.weights.layouts import VECTOR
from htc_tf.weights.tables.kinds import CONVOLUTION, LINEAR, NORM

# fmt: off
SCALE = (("gamma", ("gamma", VECTOR), None),)

LAYERS = (
    (("backbone", "backbone", "backbone"), (
        ("downsampling.{s}.{p}",          "downsample_layers.{s}.{p}", None,                 CONVOLUTION + NORM),
        ("output_norms.{s}",              "norm{s}",                None,                    NORM),
    )),
    (("backbone.stages.{s}", "backbone.stages.{s}", "backbone"), (
        ("{b}",                           "{b}",                    None,                    SCALE),
        ("{b}.depthwise",                 "{b}.dwconv",             None,                    CONVOLUTION),
        ("{b}.depthwise_norm",            "{b}.norm",               None,                    NORM),
        ("{b}.expand",                    "{b}.pwconv1",            None,                    LINEAR),
        ("{b}.shrink",                    "{b}.pwconv2",            None,                    LINEAR),
    )),
)
# fmt: on
