"""The weights that the reference arrays were computed with: drawn from the parameters' names, stored nowhere.

`state_dict({name: shape}, seed=0)` gives {name: array} in mmdetection's layout. Each array depends on its name, its
shape and the seed alone. Gains keep activations of order one; filters behind a ReLU are centred, so that RoIs differ.
"""

import re
import zlib

import numpy as np

AFTER_RELU = 0.5 - 0.5 / np.pi  # variance of relu(z), z standard normal

# What a parameter's name starts with (the first that fits counts); gain of the kernel, mean and deviation of the bias.
HEAD = r"roi_head\.(bbox|mask|semantic)_head\.(\d\.)?"
SCALES = (
    (r"backbone\.conv1", 1.0, 0.0, 0.0),
    (r"backbone\..*downsample\.0", 1.5, 0.0, 0.0),
    (r"backbone", 2.0, 0.0, 0.0),
    (r"neck\.lateral_convs", 1.0, 0.0, 0.05),
    (r"neck\.fpn_convs", 0.8, 0.0, 0.05),
    (r"rpn_head\.rpn_cls", 1.0, -1.0, 0.3),
    (r"rpn_head\.rpn_reg", 0.1, 0.0, 0.05),
    (HEAD + "lateral_convs", 0.6, 0.0, 0.05),
    (HEAD + "conv_logits", 2.5, 0.0, 0.5),
    (HEAD + "conv_res", 0.5, 0.0, 0.05),
    (HEAD + "fc_cls", 2.0, 0.0, 0.5),
    (HEAD + "fc_reg", 0.3, 0.0, 0.2),
    (r"rpn_head|roi_head", 2.0, 0.0, 0.05),
)
CENTRED = re.compile(
    r"backbone\.layer|neck\.lateral_convs|rpn_head\.rpn_(cls|reg)"
    r"|roi_head\.semantic_head\.(convs|conv_embedding|conv_logits)"
    r"|roi_head\.bbox_head\.\d\.(shared_fcs\.1|fc_)"
    r"|roi_head\.mask_head\.\d\.(convs\.[123]|conv_res|upsample|conv_logits)"
)


def state_dict(shapes, seed=0):
    return {name: parameter(name, shape, seed) for name, shape in shapes.items()}


def parameter(name, shape, seed=0):
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    random = np.random.RandomState((zlib.crc32(name.encode()) + 2654435761 * seed) % 2**32)
    if leaf == "running_var":
        value = random.uniform(0.7, 1.4, shape)
    elif leaf == "running_mean":
        value = 0.1 * random.standard_normal(shape)
    elif re.search(r"\.(bn\d|downsample\.1)\.", name):
        value = norm(random, name, leaf, shape)
    else:
        value = kernel_or_bias(random, name, leaf, shape)
    # What lies beyond 1e-7 could depend on NumPy's order of summation.
    return np.round(value, 7).astype(np.float32)


def norm(random, name, leaf, shape):
    if leaf == "bias":
        return 0.1 * random.standard_normal(shape)
    # The last norm of a bottleneck is small, so that the sums over the blocks stay of order one.
    return (0.35 if ".bn3." in name else 1.0) * random.uniform(0.8, 1.2, shape)


def kernel_or_bias(random, name, leaf, shape):
    _, gain, mean, deviation = next(row for row in SCALES if re.match(row[0], name))
    value = random.standard_normal(shape)
    if leaf == "bias":
        return mean + deviation * value
    # A deconvolution's kernel is [in, out, 2, 2], and with stride 2 each output has one tap.
    inputs = (0,) if ".upsample." in name else tuple(range(1, len(shape)))
    if CENTRED.match(name):
        value = value - value.mean(axis=inputs, keepdims=True)
        gain = gain * 0.5 / AFTER_RELU
    return value * np.sqrt(gain / np.prod([shape[axis] for axis in inputs]))
