"""SCNet: names of its heads in mmdetection where they differ from HTC's; Paddle's network has none."""

from htc_tf.weights.layouts import MATRIX, VECTOR, relayed
from htc_tf.weights.tables.kinds import CONVOLUTION, LINEAR, NORM

# fmt: off
RELAY_LINEAR = (("kernel", ("weight", relayed(MATRIX)), None), ("bias", ("bias", relayed(VECTOR)), None))
BLOCKS = (
    ("convs.{c}.conv1.convolution",      "convs.{c}.conv1",        None,                    CONVOLUTION),
    ("convs.{c}.conv1.norm",             "convs.{c}.bn1",          None,                    NORM),
    ("convs.{c}.conv2.convolution",      "convs.{c}.conv2",        None,                    CONVOLUTION),
    ("convs.{c}.conv2.norm",             "convs.{c}.bn2",          None,                    NORM),
)

LAYERS = (
    (("semantic_head", "roi_head.semantic_head", "semantic_head"), BLOCKS),
    (("context_head", "roi_head.glbctx_head", "context_head"), (
        *BLOCKS,
        ("classifier",                   "fc",                     None,                    LINEAR),
    )),
    (("mask_heads.{s}", "roi_head.mask_head{s:.}", "mask_heads"), BLOCKS),
    (("relay", "roi_head.feat_relay_head", "relay"), (
        ("expand",                       "fc",                     None,                    RELAY_LINEAR),
    )),
)
# fmt: on
