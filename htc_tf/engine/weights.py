"""Weights under mmdetection's names: the table between its state_dict and our variables, read in both directions.

Comes before training and serving: whoever has a trained mmdetection HTC loads it here. After it, the model is like any
other. The names are mmdetection 3's (https://github.com/open-mmlab/mmdetection, `HybridTaskCascade`).

Placeholders in the table run over whatever the model has: a small letter counts from 0, its capital from 1.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Layout(NamedTuple):
    """How an array lies here and there. Both functions take the model too: it knows the size of a RoI's features."""

    ours: Callable  # (mmdetection's array, model) -> ours
    theirs: Callable  # (our array, model) -> mmdetection's


def permutation(*axes):
    """Our axis i is mmdetection's axis axes[i]."""
    back = tuple(int(i) for i in np.argsort(axes))
    return Layout(lambda a, model: np.transpose(a, axes), lambda a, model: np.transpose(a, back))


def flattened(layout):
    """A kernel that covers a RoI's whole features, kept as a matrix: mmdetection's [out, c y x], our [y x c, out]."""

    def ours(a, model):
        side = model.roi_align.box_size
        return np.reshape(layout.ours(np.reshape(a, (len(a), -1, side, side)), model), (-1, len(a)))

    def theirs(a, model):
        side, outputs = model.roi_align.box_size, a.shape[-1]
        return np.reshape(layout.theirs(np.reshape(a, (side, side, -1, outputs)), model), (outputs, -1))

    return Layout(ours, theirs)


def deltas(layout):
    """Outputs that are mmdetection's dx, dy, dw, dh, our dy, dx, dh, dw, of every anchor."""

    def swap(a):
        return np.reshape(np.reshape(a, (-1, 4, *a.shape[1:]))[:, (1, 0, 3, 2)], a.shape)

    return Layout(lambda a, model: layout.ours(swap(a), model), lambda a, model: swap(layout.theirs(a, model)))


VECTOR = permutation(0)
MATRIX = permutation(1, 0)  # [out, in] -> [in, out]
KERNEL = permutation(2, 3, 1, 0)  # [out, in, y, x] -> [y, x, in, out]; transposed: [in, out, y, x] -> [y, x, out, in]

# What a module holds: mmdetection's name, our attribute, layout.
CONVOLUTION = (("weight", "kernel", KERNEL), ("bias", "bias", VECTOR))
DELTA_CONVOLUTION = (("weight", "kernel", deltas(KERNEL)), ("bias", "bias", deltas(VECTOR)))
LINEAR = (("weight", "kernel", MATRIX), ("bias", "bias", VECTOR))
POOLED_LINEAR = (("weight", "kernel", flattened(KERNEL)), ("bias", "bias", VECTOR))
DELTA_LINEAR = (("weight", "kernel", deltas(MATRIX)), ("bias", "bias", deltas(VECTOR)))
NORM = (
    ("weight", "gamma", VECTOR),
    ("bias", "beta", VECTOR),
    ("running_mean", "moving_mean", VECTOR),
    ("running_var", "moving_variance", VECTOR),
)
COUNTER = "num_batches_tracked"  # of every batch norm; nothing reads it, and we have none

SEMANTIC, BOX, MASK = "roi_head.semantic_head", "roi_head.bbox_head.{s}", "roi_head.mask_head.{s}"
MODULES = (
    # mmdetection's module, our layer, what it holds
    ("backbone.conv1", "backbone.stem.convolution", CONVOLUTION),
    ("backbone.bn1", "backbone.stem.norm", NORM),
    ("backbone.layer{S}.{b}.conv{C}", "backbone.stages.{s}.{b}.body.{c}.convolution", CONVOLUTION),
    ("backbone.layer{S}.{b}.bn{C}", "backbone.stages.{s}.{b}.body.{c}.norm", NORM),
    ("backbone.layer{S}.{b}.downsample.0", "backbone.stages.{s}.{b}.shortcut.convolution", CONVOLUTION),
    ("backbone.layer{S}.{b}.downsample.1", "backbone.stages.{s}.{b}.shortcut.norm", NORM),
    ("neck.lateral_convs.{l}.conv", "neck.laterals.{l}.convolution", CONVOLUTION),
    ("neck.fpn_convs.{l}.conv", "neck.outputs.{l}.convolution", CONVOLUTION),
    ("rpn_head.rpn_conv", "rpn.shared.convolution", CONVOLUTION),
    ("rpn_head.rpn_cls", "rpn.objectness.convolution", CONVOLUTION),
    ("rpn_head.rpn_reg", "rpn.deltas.convolution", DELTA_CONVOLUTION),
    (f"{SEMANTIC}.lateral_convs.{{l}}.conv", "semantic_head.laterals.{l}.convolution", CONVOLUTION),
    (f"{SEMANTIC}.convs.{{c}}.conv", "semantic_head.convolutions.{c}.convolution", CONVOLUTION),
    (f"{SEMANTIC}.conv_embedding.conv", "semantic_head.embed.convolution", CONVOLUTION),
    (f"{SEMANTIC}.conv_logits", "semantic_head.predict.convolution", CONVOLUTION),
    (f"{BOX}.shared_fcs.0", "stages.{s}.box_head.hidden.0", POOLED_LINEAR),
    (f"{BOX}.shared_fcs.1", "stages.{s}.box_head.hidden.1", LINEAR),
    (f"{BOX}.fc_cls", "stages.{s}.box_head.classifier", LINEAR),
    (f"{BOX}.fc_reg", "stages.{s}.box_head.regressor", DELTA_LINEAR),
    (f"{MASK}.conv_res.conv", "stages.{s}.mask_head.receive.convolution", CONVOLUTION),
    (f"{MASK}.convs.{{c}}.conv", "stages.{s}.mask_head.convolutions.{c}.convolution", CONVOLUTION),
    (f"{MASK}.upsample", "stages.{s}.mask_head.upsample", CONVOLUTION),
    (f"{MASK}.conv_logits", "stages.{s}.mask_head.predict.convolution", CONVOLUTION),
)


class Entry(NamedTuple):
    """One line of mmdetection's state_dict and our variable for it."""

    name: str
    variable: tf.Variable
    layout: Layout


class Unmatched(NamedTuple):
    """What did not find its counterpart; three empty lists after a complete load."""

    missing: list  # names that the arrays lack, and our variables that mmdetection has no name for
    unexpected: list  # names in the arrays that the model has no variable for
    misshapen: list  # "name: shape here, shape there"


def entries(model):
    """Every Entry of a model that has its variables, in the table's order.

    Args:
        model: an HTC that was called once; layers that it never calls, such as a first stage's `receive`, are left out.
    Raises:
        ValueError: the model has no variables yet.
    """
    if not model.built:
        raise ValueError("the model has no variables yet: call it once, on zeros")
    found = []
    for theirs, path, held in MODULES:
        for layer, numbers in resolve(model, path.split("."), {}):
            for leaf, attribute, layout in held:
                # A layer that was never called, or a convolution without bias.
                variable = getattr(layer, attribute, None) if layer.built else None
                if variable is not None:
                    found.append(Entry(f"{theirs.format(**numbers)}.{leaf}", variable, layout))
    return found


def resolve(node, path, numbers):
    """Yields (layer, {placeholder: number}) for each layer that a path of the table leads to from a node."""
    if node is None or not path:
        if node is not None:
            yield node, numbers
        return
    step, *rest = path
    if letter := re.fullmatch(r"{(\w)}", step):
        children = list(node.values()) if isinstance(node, dict) else list(node)
        for i, child in enumerate(children):
            yield from resolve(child, rest, numbers | {letter[1]: i, letter[1].upper(): i + 1})
    else:
        yield from resolve(node[int(step)] if step.isdigit() else getattr(node, step), rest, numbers)


def mmdet_arrays(model):
    """{mmdetection's name: array in its layout} of a built HTC; each batch norm's counter is 0."""
    arrays = {}
    for name, variable, layout in entries(model):
        arrays[name] = np.ascontiguousarray(layout.theirs(variable.numpy(), model))
        if name.endswith(".running_var"):
            arrays[name.removesuffix("running_var") + COUNTER] = np.zeros([], np.int64)
    return arrays


def load_mmdet(model, arrays):
    """Sets the variables of a built HTC from {mmdetection's name: array}; what does not match is left as it is.

    Returns:
        Unmatched, which the caller decides about.
    """
    table = entries(model)
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
    unexpected = [name for name in arrays if name not in known and not name.endswith(COUNTER)]
    return Unmatched(missing, unexpected, misshapen)
