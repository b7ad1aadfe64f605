"""Stand-in weights of DetectoRS' parts, drawn as in drawn_weights.py but with statistics that fit the kernels."""

import re
import runpy
from pathlib import Path

import numpy as np

DRAWN = runpy.run_path(str(Path(__file__).resolve().parent / "drawn_weights.py"))
# Smaller than elsewhere, so that activations stay of order one and taps on the map.
SCALES = ((r"\.bn3\.weight$", 0.3), (r"\.(switch|pre_context|post_context)\.weight$", 0.2), (r"\.offset_", 0.5))
BLOCKS = (1, 2, 2, 2)  # of the four stages
IMAGE = (96, 128)  # the smallest sides whose C5 the original can reflect by two cells


def state_dict(shapes):
    """Returns {name: array} of {name: shape}, all of a network, in PyTorch's layout."""
    return {name: parameter(name, shape, shapes) for name, shape in shapes.items()}


def parameter(name, shape, shapes):
    value = DRAWN["parameter"](name, shape) * next((scale for part, scale in SCALES if re.search(part, name)), 1)
    module, _, leaf = name.rpartition(".")
    if leaf in ("weight_gamma", "weight_beta", "weight_diff"):
        deviation = np.sqrt(2 / np.prod(shapes[f"{module}.weight"][1:]))  # of the kernel
        value = {
            "weight_gamma": lambda: deviation * np.exp(value),
            "weight_beta": lambda: 0.1 * deviation * value,
            "weight_diff": lambda: 2 * deviation * value,
        }[leaf]()
    return np.round(value, 6).astype(np.float32)


def images():
    """Returns an image [1, height, width, 3]."""
    # The second: the first lies at a kink, where a change of 3e-6 in the image can move a float32 gradient by 2%.
    return DRAWN["images"](*IMAGE)[1:]
