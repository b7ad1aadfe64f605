"""Composite backbones of CBNetV2 (https://github.com/VDIGPKU/CBNetV2): the names of their parts and links.

The parts of one with Swins have the names of Swin's authors, see `swin_names`. Its links are convolutions alone:
cb_linears.1.2.weight. Those of one with ResNets are followed by a norm: cb_linears.1.2.0.weight. The tables have all of
them in the second way.
"""

import re

import numpy as np

PARTS = ("backbone.cb_modules.0.", "backbone.cb_modules.1.")
LINK = re.compile(r"(backbone\.cb_linears\.\d\.\d)\.(weight|bias)")


def rename_links(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays with the tables' names of links."""
    return {LINK.sub(r"\1.0.\2", name) if LINK.fullmatch(name) else name: array for name, array in arrays.items()}
