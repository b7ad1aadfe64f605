"""Weights in a run's checkpoint, found by their paths through its objects: no model of that run is built.

A checkpoint holds the graph of the saved objects. Walking it beside the present model leads from each variable to the
value saved at the same path, whatever else the two models have.
"""

import re

import tensorflow as tf
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from htc_tf.checkpoint import FORMER_ATTRIBUTES, SUFFIX
from htc_tf.checkpoint_files import READ_ERRORS
from htc_tf.errors import UserError

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"  # TensorFlow's name of a variable's value among the attributes of its node


class StoredWeights:
    """Weights of a checkpoint for the variables of a model, averaged if the checkpoint has averages."""

    def __init__(self, path, model, class_names):
        """
        Args:
            path: str, path of an intact checkpoint.
            model: Keras layer with variables.
            class_names: list of str, the classes of the run, or None.
        Raises:
            UserError: The checkpoint holds no model.
        """
        self.name, self.class_names = path, class_names
        try:
            self.reader = tf.train.load_checkpoint(path)
            self.shapes = self.reader.get_variable_to_shape_map()
            nodes = TrackableObjectGraph.FromString(self.reader.get_tensor(GRAPH)).nodes
            self.keys = find_keys(model, nodes, children(nodes[0])["model"])
            averages = find_averages(nodes)
        except (*READ_ERRORS, KeyError, StopIteration) as error:
            raise UserError(f"{path} is not a checkpoint of htc_tf: it holds no model's graph of objects") from error
        self.rest = self.shapes.keys() - self.keys.values()
        self.keys = {variable: averages.get(key, key) for variable, key in self.keys.items()}

    def find(self, variable, shape):
        """Returns the value for a variable if there is one of the given shape, else None."""
        key = self.keys.get(id(variable))
        return self.reader.get_tensor(key) if key and self.shapes[key] == list(shape) else None

    def mismatch(self, variable):
        """Returns the difference between a variable and its value in words, or None if it fits."""
        key, here = self.keys.get(id(variable)), list(variable.shape)
        if key is None:
            return f"it lacks {variable.name}"
        return None if self.shapes[key] == here else f"{variable.name}: {here} here, {self.shapes[key]} there"

    def surplus(self):
        """Returns the names of the backbone's values for which the model has no variable."""
        names = [name for name in self.rest if name.startswith("model/backbone/") and ".OPTIMIZER_SLOT" not in name]
        return sorted(name.removeprefix("model/").removesuffix(SUFFIX) for name in names)


def find_keys(model, nodes, root):
    """Returns {id of a variable: key of its value} of a model.

    Args:
        model: Keras layer with variables.
        nodes: Nodes of the checkpoint's graph.
        root: Index of the node of the model.
    """
    view = tf.train.TrackableView(model)
    former = {present: name for name, present in FORMER_ATTRIBUTES.items()}
    keys, seen, found = {}, set(), [(model, root)]
    for ours, theirs in found:  # grows
        if id(ours) in seen:
            continue
        seen.add(id(ours))
        keys |= {id(ours): value.checkpoint_key for value in nodes[theirs].attributes if value.name == VALUE}
        named = children(nodes[theirs])
        for name, child in view.children(ours).items():
            node = named.get(name, named.get(former.get(name)))
            if node is not None:
                found.append((child, node))
    return keys


def find_averages(nodes):
    """Returns {key of a weight: key of its moving average}, empty without averages.

    Averages are numbered in the order of the model's trained variables and have the names of these. Variables of one
    name, as in the heads of several stages, are told apart by that order.
    """
    averages = children(nodes[0]).get("averages")
    if averages is None:
        return {}
    weights = children(nodes[children(nodes[averages])["weights"]])
    averages = [nodes[weights[number]].attributes[0] for number in sorted(weights, key=in_order)]
    values = [value for node in nodes for value in node.attributes if value.checkpoint_key.startswith("model/")]
    of_name = {}
    for value in sorted(values, key=lambda value: in_order(value.checkpoint_key)):
        if ".OPTIMIZER_SLOT" not in value.checkpoint_key:
            of_name.setdefault(value.full_name, []).append(value.checkpoint_key)
    remaining = {name: iter(keys) for name, keys in of_name.items()}
    return {next(remaining[average.full_name]): average.checkpoint_key for average in averages}


def children(node):
    """Returns {name: index} of a node's children."""
    return {child.local_name: child.node_id for child in node.children}


def in_order(key):
    """Returns a sort key by which 2 comes before 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"/", key)]
