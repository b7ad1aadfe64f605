"""Stand-in weights of convolutional networks, images and a loss, drawn from names and shapes and stored nowhere.

The originals and the tests both run this file, so it needs NumPy alone.
"""

import zlib

import numpy as np


def state_dict(shapes):
    """Returns {name: array} of {name: shape} in PyTorch's layout."""
    return {name: parameter(name, shape) for name, shape in shapes.items()}


def parameter(name, shape):
    """Returns an array that depends on its name and shape alone; activations stay of order one."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    value = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if leaf == "running_var":
        value = np.exp(0.3 * value)
    elif leaf == "weight" and len(shape) == 1:  # scale of a norm
        value = 0.7 + 0.2 * value
    elif leaf == "weight":
        value *= np.sqrt(2 / np.prod(shape[1:]))
    else:
        value *= 0.3
    return np.round(value, 6).astype(np.float32)


def images(height=64, width=96):
    """Returns two images [2, height, width, 3]."""
    return np.random.RandomState(0).standard_normal((2, height, width, 3)).astype(np.float32)


def waves(shape):
    """Returns factors [*shape], by which features are multiplied and summed for a loss."""
    return np.cos(0.1 * np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
