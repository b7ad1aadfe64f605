"""Composite backbones of CBNetV2 (https://github.com/VDIGPKU/CBNetV2): the names of their parts and links.

The parts of one with Swins have the names of Swin's authors, see `swin_names`. Its links are convolutions alone:
cb_linears.1.2.weight. Those of one with ResNets are followed by a norm: cb_linears.1.2.0.weight. The tables have all of
them in the second way.
"""

import re

PARTS = ("backbone.cb_modules.0.", "backbone.cb_modules.1.")
LINK = re.compile(r"(backbone\.cb_linears\.\d\.\d)\.(weight|bias)")


def rename_links(arrays):
    """Returns the arrays with the tables' names of links."""
    return {LINK.sub(r"\1.0.\2", name) if LINK.fullmatch(name) else name: array for name, array in arrays.items()}


def copy_to_parts(arrays, names):
    """Returns the arrays of a backbone for both parts of a composite one, or unchanged for another backbone.

    As in CBNetV2, the second part takes those that it has; it lacks the shared layers.

    Args:
        arrays: {"backbone. ...": array}.
        names: Set of the names that the model has.
    """
    if not any(name.startswith(PARTS[0]) for name in names) or any(name.startswith(PARTS[0]) for name in arrays):
        return arrays
    first, second = ({part + name.removeprefix("backbone."): arrays[name] for name in arrays} for part in PARTS)
    return {**first, **{name: array for name, array in second.items() if name in names}}
