"""Adoption of weights: a model takes from a source what fits, and a table says which parts that is.

A source has a `name`, `class_names` (list of str, or None if they are unknown), and the methods of
`stored_weights.StoredWeights`: `find`, `mismatch` and `surplus`.
"""

from typing import NamedTuple

from htc_tf.errors import UserError, listed
from htc_tf.training.class_columns import find_columns, shared_classes
from htc_tf.training.frozen import find_parts

MAX_NAMES = 3  # layers or variables in a line


class Adopted(NamedTuple):
    """The variables that have taken a value, by id, and the lines of the table."""

    variables: set
    table: list  # of str; empty if the model took all of its weights


def adopt(model, source, class_names, gin_files=(), optional=()):
    """Sets the variables of a model that a source has values for; the others keep their initial values.

    Of a layer with an axis of classes, the columns of the classes with the same name are set, and the background's.

    Args:
        model: HTC with variables.
        source: The source, see above.
        class_names: list of str, the model's classes.
        gin_files: Gin files of the source's model, for a message.
        optional: Ids of variables of the backbone that the source may lack.
    Returns:
        Adopted.
    Raises:
        UserError: The source has another backbone.
    """
    theirs, columns = source.class_names or [], find_columns(model)
    pairs = shared_classes(theirs, class_names)
    there, here = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    parts, taken = group_weights(model), set()
    check_backbone(parts.get("backbone", model.variables), source, gin_files, optional)

    def read(variable):
        own = columns.get(id(variable))
        if own is None:
            return source.find(variable, variable.shape)
        given = source.find(variable, [*variable.shape[:-1], own.count(len(theirs))])
        if given is None:
            return None
        value = variable.numpy()
        value[..., own.of(here, len(class_names))] = given[..., own.of(there, len(theirs))]
        return value

    for weights in parts.values():
        for layer in group_by_layer(weights):
            values = [read(variable) for variable in layer]
            if all(value is not None for value in values):  # a bias without its kernel is of no use
                for variable, value in zip(layer, values, strict=True):
                    variable.assign(value)
                    taken.add(id(variable))
    counts = len(pairs), len(class_names)
    rows = {name: describe(name, weights, taken, columns, *counts) for name, weights in parts.items()}
    if set(rows.values()) == {"taken"}:
        return Adopted(taken, [])
    if columns:
        kept = [class_names[index] for index in here] if taken & columns.keys() else []
        names = f": {listed(kept)}" if kept else ""
        unknown = "" if source.class_names else f", since {source.name} does not name its classes"
        rows["classes"] = f"{len(kept)} of {len(class_names)} kept{names}{unknown}"
    width = max(map(len, rows))
    return Adopted(taken, [f"weights from {source.name}:", *(f"  {name:{width}}  {row}" for name, row in rows.items())])


def group_weights(model):
    """Returns {name of a part: its variables}; variables in no part are those of "other layers"."""
    parts = {name: part.weights for name, part in find_parts(model).items()}
    known = {id(v) for weights in parts.values() for v in weights}
    rest = [v for v in model.variables if id(v) not in known]
    return parts | ({"other layers": rest} if rest else {})


def group_by_layer(weights):
    """Returns lists of the variables of one layer, by their names."""
    layers = {}
    for variable in weights:
        layers.setdefault(variable.name.rpartition("/")[0], []).append(variable)
    return layers.values()


def describe(part, weights, taken, columns, kept, classes):
    """Returns the row of a part: "taken", "new", or which layers of it are new."""
    own = [v for v in weights if id(v) in columns]
    rest = [v for v in weights if id(v) not in columns]
    new = [v for v in rest if id(v) not in taken]
    if len(new) == len(rest) and not any(id(v) in taken for v in own):
        return "new"
    # "htc/box_head/deltas/kernel:0" -> "deltas"; "htc/conv1/conv/bias:0", of a mask head -> "conv1"
    paths = [v.name.split("/")[1:] or [v.name] for v in new]
    layers = dict.fromkeys(path[part.replace(" ", "_").endswith(path[0]) and len(path) > 1] for path in paths)
    words = f"taken except {listed(list(layers), MAX_NAMES)}" if layers else "taken"
    if any(id(v) not in taken for v in own):
        return f"{words}; classes new"
    return f"{words}; {kept} of {classes} classes kept" if own and kept < classes else words


def check_backbone(variables, source, gin_files, optional):
    """Raises a UserError that names some of the differences, unless the source's backbone has the same variables."""
    found = [source.mismatch(variable) for variable in variables if id(variable) not in optional]
    differences = [line for line in found if line is not None]
    fits = f"{len(found) - len(differences)} of {len(found)} variables of the backbone fit"
    differences += [f"it also has {name}" for name in source.surplus()]
    if differences:
        files = " ".join(f"--gin_file {name}" for name in gin_files)
        advice = f"give its configuration, {files}" if files else "give the --gin_file of its model"
        raise UserError(
            f"--init_from {source.name} is of another architecture: {fits} ({listed(differences, MAX_NAMES)}); {advice}"
        )
