"""What the files of ordinary ResNets lack for DetectoRS (arXiv:2006.02334): kernel statistics and a second backbone.

As in mmdetection, a standardized convolution without stored statistics takes those of its kernel, and so equals the
ordinary convolution; and both backbones start from the same weights.
"""

import re

import numpy as np

from htc_tf.ops.convolution import KERNEL_EPSILON
from htc_tf.weights.tables.switchable import SECOND

FIRST = "backbone."
STATISTICS = re.compile(r"(.*)\.weight_(gamma|beta)")


def complete(arrays, names):
    """Returns the arrays with those that a DetectoRS model needs and the file of an ordinary ResNet implies.

    Args:
        arrays: {mmdetection's name: array}.
        names: Set of the names that the model has; the arrays of another model stay as they are.
    """
    if not any(name.startswith(SECOND) for name in arrays):
        second = {f"{SECOND}.{name.removeprefix(FIRST)}": name for name in arrays if name.startswith(FIRST)}
        arrays = {**arrays, **{copy: arrays[name] for copy, name in second.items() if copy in names}}
    modules = {found[1] for name in names if (found := STATISTICS.fullmatch(name))}
    return {**arrays, **{k: v for module in sorted(modules) for k, v in statistics(arrays, module).items()}}


def statistics(arrays, module):
    """Returns the statistics of a module's kernel by name, or {} if there is no kernel or if they are stored.

    mmdetection also recomputes stored deviations whose mean is not positive.
    """
    kernel, stored = arrays.get(f"{module}.weight"), arrays.get(f"{module}.weight_gamma")
    if np.ndim(kernel) != 4 or (stored is not None and np.mean(stored) > 0):
        return {}
    rows = np.reshape(kernel, (len(kernel), -1)).astype(np.float64)
    deviation = np.sqrt(np.var(rows, axis=1, ddof=1) + KERNEL_EPSILON)
    shape = (-1, 1, 1, 1)
    return {
        f"{module}.weight_gamma": deviation.reshape(shape).astype(np.float32),
        f"{module}.weight_beta": np.mean(rows, axis=1).reshape(shape).astype(np.float32),
    }
