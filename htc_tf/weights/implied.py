"""What the file of an ordinary detector or classifier implies for a model that has more variables.

- Two backbones, CBNetV2's and those of DetectoRS, both start from the weights of one.
- DetectoRS (arXiv:2006.02334) stores statistics of each kernel. As in mmdetection, a standardized convolution without
  them takes those of its kernel, and so equals the ordinary convolution.
"""

import re
from collections.abc import Collection

import numpy as np

from htc_tf.ops.convolution import KERNEL_EPSILON
from htc_tf.weights.composite_names import PARTS
from htc_tf.weights.tables.switchable import SECOND

BACKBONE = "backbone."
PAIRS = (PARTS, (BACKBONE, f"{SECOND}."))  # prefixes of a first and a second backbone
STATISTICS = re.compile(r"(.*)\.weight_(gamma|beta)")


def complete(arrays: dict[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the arrays with those that a model needs and the arrays imply.

    Args:
        arrays: {mmdetection's name: array}.
        names: Set of the names that the model has; the arrays of an ordinary model stay as they are.
    """
    arrays = copy_backbone(arrays, names)
    modules = {found[1] for name in names if (found := STATISTICS.fullmatch(name))}
    return {**arrays, **{k: v for module in sorted(modules) for k, v in statistics(arrays, module).items()}}


def copy_backbone(arrays: dict[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns the arrays with those of the only backbone under the names of both backbones of the model.

    The second one takes what it has: in CBNetV2 it lacks the shared layers.
    """
    for first, second in PAIRS:
        stored = any(name.startswith(second) for name in arrays)
        if stored or not any(name.startswith(second) for name in names):
            continue
        copied = {name: name.removeprefix(BACKBONE) for name in arrays if name.startswith(BACKBONE)}
        others = {name: array for name, array in arrays.items() if name not in copied}
        copies = {second + rest: arrays[name] for name, rest in copied.items() if second + rest in names}
        arrays = {**others, **{first + rest: arrays[name] for name, rest in copied.items()}, **copies}
    return arrays


def statistics(arrays: dict[str, np.ndarray], module: str) -> dict[str, np.ndarray]:
    """Returns the statistics of a module's kernel by name, or {} if there is no kernel or if they are stored.

    mmdetection also recomputes stored deviations whose mean is not positive.
    """
    kernel, stored = arrays.get(f"{module}.weight"), arrays.get(f"{module}.weight_gamma")
    if kernel is None or np.ndim(kernel) != 4 or (stored is not None and np.mean(stored) > 0):
        return {}
    rows = np.reshape(kernel, (len(kernel), -1)).astype(np.float64)
    deviation = np.sqrt(np.var(rows, axis=1, ddof=1) + KERNEL_EPSILON)
    shape = (-1, 1, 1, 1)
    return {
        f"{module}.weight_gamma": deviation.reshape(shape).astype(np.float32),
        f"{module}.weight_beta": np.mean(rows, axis=1).reshape(shape).astype(np.float32),
    }
