"""The weights and the image that Paddle's reference arrays were computed with, drawn from the parameters' names.

`state_dict({name: shape})` gives {name: array} in Paddle's layout; `image()` the normalized input of 128 x 160.
Gains keep activations of order one.
"""

import re
import zlib

import numpy as np

GAINS = (  # the first that is found in the name counts
    (r"branch2c\.norm\.weight$", 0.25),
    (r"^neck\.lateral_convs", 0.5),
    (r"^neck\.fpn_convs", 0.7),
    (r"^rpn_head\.rpn_rois_delta", 0.2),
    (r"^fused_semantic_head\.lateral_convs", 0.6),
    (r"^fused_semantic_head\.conv_(logits|embedding)", 0.7),
    (r"bbox_score_stage", 0.6),
    (r"bbox_delta_stage", 0.7),
    (r"conv_res\.conv", 0.5),
)


def state_dict(shapes):
    return {name: parameter(name, shape) for name, shape in shapes.items()}


def parameter(name, shape):
    random = np.random.RandomState(zlib.crc32(name.encode()))
    gain = next((gain for pattern, gain in GAINS if re.search(pattern, name)), 1.0)
    if name.endswith("._variance"):
        value = 1.0 + 0.2 * random.rand(*shape)
    elif name.endswith("._mean") or (name.endswith(".bias")):
        value = 0.05 * random.randn(*shape)
    elif name.endswith(".norm.weight"):
        value = gain * (1.0 + 0.1 * random.randn(*shape))
    else:
        # A convolution is [out, in, y, x]; a deconvolution [in, out, y, x], one tap an output; a matrix [in, out].
        inputs = np.prod(shape[1:]) if len(shape) == 4 and ".upsample." not in name else shape[0]
        value = gain * np.sqrt(2.0 / inputs) * random.randn(*shape)
    return value.astype(np.float32)


def image():
    """[1, 3, 128, 160] float32."""
    random = np.random.RandomState(1)
    coarse = random.randn(1, 3, 16, 20).repeat(8, axis=2).repeat(8, axis=3)
    return (0.8 * coarse + 0.4 * random.randn(1, 3, 128, 160)).astype(np.float32)
