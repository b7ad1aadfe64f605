"""What tests of exported models share: an untrained model with clear detections, images, and the operations allowed."""

import numpy as np
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

CATEGORIES = [{"id": 10 * index, "name": f"thing {index}"} for index in range(8)]
MASKS = ("masks_28", "masks_rle_bytes")


def sharpen(model):
    """Enlarges an untrained model's class logits, so that rounding does not reverse the order of its detections."""
    for variable in model.variables:
        if "head/logits" in variable.name and "kernel" in variable.name and "semantic" not in variable.name:
            variable.assign(40 * variable)


def draw_samples():
    """Returns images of both padded shapes; three of the same shape need two batches."""
    rng = np.random.default_rng(3)
    sizes = ((50, 70), (90, 41), (64, 96), (40, 60), (300, 300))
    return [
        np.repeat(np.repeat(rng.integers(0, 255, (-(-h // 9), -(-w // 9), 3), np.uint8), 9, 0), 9, 1)[:h, :w]
        for h, w in sizes
    ]


def operations(graph):
    """Returns the names of all operations in a GraphDef, and its functions."""
    functions = {function.signature.name: function for function in graph.library.function}
    nodes = [*graph.node, *(node for function in functions.values() for node in function.node_def)]
    return {node.op for node in nodes} - set(functions), functions


def read_graph(folder):
    """Returns the GraphDef of a SavedModel."""
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (graph,) = [meta.graph_def for meta in model.meta_graphs]
    return graph


def check_core_operations(graph, present):
    """Checks that a GraphDef has some operations, and none that TensorFlow Serving lacks."""
    used, functions = operations(graph)
    assert present <= used
    unknown = {name for name in used if op_def_registry.get(name) is None}
    assert not unknown
    assert not {
        name for name in used if "PyFunc" in name or "Addons" in name or ">" in name or "GeneratorDataset" in name
    }
    assert not any("_XlaMustCompile" in function.attr for function in functions.values())
