"""Assignment of weights: sets a model's variables from another framework's arrays, and exports them as such arrays."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.weights.detectron2_names import has_name, to_detectron2
from htc_tf.weights.implied import complete
from htc_tf.weights.layouts import Layout
from htc_tf.weights.names import COUNTER, LAYERS, UNREAD, Framework, Index

if TYPE_CHECKING:
    from htc_tf.models.htc import HTC


class Entry(NamedTuple):
    """A name of a framework's state dict, our variable for it, and the layout between them."""

    name: str
    variable: tf.Variable
    layout: Layout

    def their_shape(self, model: HTC, shape: Sequence[int] | None = None) -> tuple[int, ...]:
        """Returns the shape of the framework's array for a shape of ours, by default the variable's."""
        return self.layout.theirs(np.empty(shape or self.variable.shape, np.bool_), model).shape  # one byte per number

    def mismatch(self, array: np.ndarray, model: HTC) -> str | None:
        """Returns "name: our shape here, their shape there" if they differ, else None."""
        here, there = self.their_shape(model), np.shape(array)
        return None if here == there else f"{self.name}: {list(here)} here, {list(there)} there"


class Unmatched(NamedTuple):
    """Names without a counterpart; three empty lists after a complete load."""

    missing: list[str]  # names absent from the arrays, and variables for which the framework has no name
    unexpected: list[str]  # names of arrays for which the model has no variable
    mismatched: list[str]  # "name: our shape here, their shape there"


def entries(model: HTC, framework: Framework = Framework.MMDET) -> list[Entry]:
    """Returns [Entry] for all variables of a model, in the order of the tables.

    Args:
        model: An HTC with variables; layers without any, such as the first stage's `flow_conv`, are omitted.
        framework: The Framework of the names.
    Raises:
        ValueError: The model has no variables yet.
    """
    if not model.built:
        raise ValueError("the model has no variables yet: call its build_variables first")
    found = []
    for heading, rows in LAYERS:
        for path, *modules, held in rows:
            if modules[framework] is None:
                continue  # the framework's network lacks this layer
            for layer, numbers in resolve(model, f"{heading[0]}.{path}".split("."), {}):
                module = f"{heading[1 + framework]}.{modules[framework]}".format(**numbers)
                for attribute, *leaves in held:
                    # None for a layer that was never called, and for a convolution without bias.
                    variable = getattr(layer, attribute, None) if layer.built else None
                    if variable is not None:
                        leaf, layout = leaves[framework]
                        found.append(Entry(f"{module}.{leaf}", variable, layout))
    return found


def resolve(node: Any, path: Sequence[str], numbers: dict[str, Index]) -> Iterator[tuple[Any, dict[str, Index]]]:
    """Yields (layer, {placeholder: Index}) for each layer at a path of the table, starting from a node.

    A path may lead nowhere, since each kind of backbone has its own rows.
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
        child = next(iter(node[int(step) :]), None) if step.isdigit() else getattr(node, step, None)
        yield from resolve(child, rest, numbers)


def find_nameless(model: HTC, table: list[Entry]) -> list[str]:
    """Returns the names of the model's variables that no Entry of the table has."""
    covered = {id(entry.variable) for entry in table}
    return [variable.name for variable in model.variables if id(variable) not in covered]


def to_arrays(model: HTC, framework: Framework, partial: bool = False) -> dict[str, np.ndarray]:
    """Returns {the framework's name: array in its layout} of a built HTC; PyTorch's batch norm counters are 0.

    Args:
        model: An HTC with variables.
        framework: The Framework of the names.
        partial: If True, variables for which the framework has no name are left out.
    Raises:
        ValueError: The framework has no name for a variable.
    """
    arrays, table = {}, entries(model, framework)
    nameless = find_nameless(model, table)
    if nameless and not partial:
        raise ValueError(
            f"{framework.name} has no name for {len(nameless)} of the model's {len(model.variables)} variables, "
            f"such as {nameless[0]}: partial=True leaves them out"
        )
    for name, variable, layout in table:
        arrays[name] = np.ascontiguousarray(layout.theirs(variable.numpy(), model))
        if name.endswith(".running_var"):
            arrays[name.removesuffix("running_var") + COUNTER] = np.zeros([], np.int64)
    return arrays


class NamedWeights:
    """Arrays under a framework's names as a source of weights for a model; see `training.adoption`."""

    def __init__(
        self, name: str, model: HTC, arrays: dict[str, np.ndarray], framework: Framework, class_names: list[str] | None
    ) -> None:
        """
        Args:
            name: str, path of the file, for messages.
            model: An HTC with variables.
            arrays: {the framework's name: array}.
            framework: The Framework.
            class_names: list of str, the classes of the arrays, or None.
        """
        self.name, self.class_names = name, class_names
        self.model = model
        self.entries = {id(entry.variable): entry for entry in entries(model, framework)}
        self.arrays = complete(arrays, {entry.name for entry in self.entries.values()})

    def find(self, variable: tf.Variable, shape: Sequence[int]) -> np.ndarray | None:
        """Returns the array for a variable in our layout, if it then has the given shape, else None."""
        entry = self.entries.get(id(variable))
        array = None if entry is None else self.arrays.get(entry.name)
        if entry is None or array is None or np.shape(array) != entry.their_shape(self.model, shape):
            return None
        return entry.layout.ours(np.asarray(array), self.model)

    def mismatch(self, variable: tf.Variable) -> str | None:
        """Returns the difference between a variable and its array in words, or None if it fits."""
        entry = self.entries.get(id(variable))
        if entry is None or entry.name not in self.arrays:
            return f"it lacks {variable.name if entry is None else entry.name}"
        return entry.mismatch(self.arrays[entry.name], self.model)

    def surplus(self) -> list[str]:
        """Returns the names of the backbone's arrays for which the model has no variable."""
        known = {entry.name for entry in self.entries.values()}
        rest = sorted(self.arrays.keys() - known)
        return [name for name in rest if name.startswith("backbone.") and not UNREAD.search(name)]


def load(model: HTC, arrays: dict[str, np.ndarray], framework: Framework) -> Unmatched:
    """Sets the variables of a built HTC from {the framework's name: array} and leaves those that do not match.

    Returns:
        Unmatched names; the caller decides whether they are an error.
    """
    table = entries(model, framework)
    arrays = complete(arrays, {entry.name for entry in table})
    missing = find_nameless(model, table)
    mismatched = []
    for entry in table:
        if entry.name not in arrays:
            missing.append(entry.name)
        elif (line := entry.mismatch(arrays[entry.name], model)) is not None:
            mismatched.append(line)
        else:
            entry.variable.assign(entry.layout.ours(np.asarray(arrays[entry.name]), model))
    known = {entry.name for entry in table}
    unexpected = [name for name in arrays if name not in known and not UNREAD.search(name)]
    return Unmatched(missing, unexpected, mismatched)


mmdet_arrays = functools.partial(to_arrays, framework=Framework.MMDET)
load_mmdet = functools.partial(load, framework=Framework.MMDET)
paddle_arrays = functools.partial(to_arrays, framework=Framework.PADDLE)
load_paddle = functools.partial(load, framework=Framework.PADDLE)


def detectron2_arrays(model: HTC, partial: bool = False) -> dict[str, np.ndarray]:
    """Returns {detectron2's name: array in its layout} of a built HTC, for a network that reads BGR images.

    Arguments and errors: as in `to_arrays`.
    """
    arrays = mmdet_arrays(model, partial=partial)
    nameless = [name for name in arrays if not has_name(name)]
    if nameless and not partial:
        raise ValueError(
            f"detectron2 has no name for {len(nameless)} of the model's {len(arrays)} arrays, such as {nameless[0]}: "
            "partial=True leaves them out"
        )
    return to_detectron2({name: array for name, array in arrays.items() if has_name(name)})
