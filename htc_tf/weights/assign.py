"""Our variables under another framework's names: set from its arrays, or given out as its arrays.

Comes after `names`, whose tables it follows through the model, and before a checkpoint is written.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.weights.layouts import Layout
from htc_tf.weights.names import COUNTER, LAYERS, UNREAD, Framework, Index


class Entry(NamedTuple):
    """One line of a framework's state dict and our variable for it."""

    name: str
    variable: tf.Variable
    layout: Layout


class Unmatched(NamedTuple):
    """What did not find its counterpart; three empty lists after a complete load."""

    missing: list  # names that the arrays lack, and our variables that the framework has no name for
    unexpected: list  # names in the arrays that the model has no variable for
    misshapen: list  # "name: shape here, shape there"


def entries(model, framework=Framework.MMDET):
    """Every Entry of a model that has its variables, in the tables' order.

    Args:
        model: an HTC with variables; layers without any, such as a first stage's `flow_conv`, are left out.
        framework: whose names.
    Raises:
        ValueError: the model has no variables yet.
    """
    if not model.built:
        raise ValueError("the model has no variables yet: call it once, on zeros")
    found = []
    for heading, rows in LAYERS:
        for path, *modules, held in rows:
            if modules[framework] is None:
                continue  # a layer that this framework's network has not
            for layer, numbers in resolve(model, f"{heading[0]}.{path}".split("."), {}):
                module = f"{heading[1 + framework]}.{modules[framework]}".format(**numbers)
                for attribute, *leaves in held:
                    # A layer that was never called, or a convolution without bias.
                    variable = getattr(layer, attribute, None) if layer.built else None
                    if variable is not None:
                        leaf, layout = leaves[framework]
                        found.append(Entry(f"{module}.{leaf}", variable, layout))
    return found


def resolve(node, path, numbers):
    """Yields (layer, {placeholder: Index}) for each layer that a path of the table leads to from a node.

    There may be none: each kind of backbone has rows of its own.
    """
    if node is None or not path:
        if node is not None:
            yield node, numbers
        return
    step, *rest = path
    if placeholder := re.fullmatch(r"{(\w)}", step):
        children = list(node.values()) if isinstance(node, dict) else list(node)
        for i, child in enumerate(children):
            yield from resolve(child, rest, numbers | {placeholder[1]: Index(i, len(children))})
    else:
        yield from resolve(node[int(step)] if step.isdigit() else getattr(node, step, None), rest, numbers)


def to_arrays(model, framework):
    """{the framework's name: array in its layout} of a built HTC; PyTorch's counters of batch norms are 0."""
    arrays = {}
    for name, variable, layout in entries(model, framework):
        arrays[name] = np.ascontiguousarray(layout.theirs(variable.numpy(), model))
        if name.endswith(".running_var"):
            arrays[name.removesuffix("running_var") + COUNTER] = np.zeros([], np.int64)
    return arrays


def load(model, arrays, framework):
    """Sets the variables of a built HTC from {the framework's name: array}; what does not match is left as it is.

    Returns:
        Unmatched, which the caller decides about.
    """
    table = entries(model, framework)
    covered = {id(entry.variable) for entry in table}
    missing = [variable.name for variable in model.variables if id(variable) not in covered]
    misshapen = []
    for name, variable, layout in table:
        if name not in arrays:
            missing.append(name)
            continue
        expected = layout.theirs(np.empty(variable.shape, np.bool_), model).shape
        if expected != np.shape(arrays[name]):
            misshapen.append(f"{name}: {list(expected)} here, {list(np.shape(arrays[name]))} there")
            continue
        variable.assign(layout.ours(np.asarray(arrays[name]), model))
    known = {entry.name for entry in table}
    unexpected = [name for name in arrays if name not in known and not UNREAD.search(name)]
    return Unmatched(missing, unexpected, misshapen)


mmdet_arrays = functools.partial(to_arrays, framework=Framework.MMDET)
load_mmdet = functools.partial(load, framework=Framework.MMDET)
paddle_arrays = functools.partial(to_arrays, framework=Framework.PADDLE)
load_paddle = functools.partial(load, framework=Framework.PADDLE)
