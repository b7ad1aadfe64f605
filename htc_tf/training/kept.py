"""Bytes that the forward pass of a training keeps for its backward pass, counted in the graph of both.

The parts of the network are traced with static numbers of RoIs: in a training step the number of positives, which mask
heads process, is unknown before the step.
"""

import math

import tensorflow as tf

from htc_tf.models.mask_head import mask_information_flow
from htc_tf.training.typical_load import SHARES

# Operations whose result is the buffer of their input.
ALIASES = {"ExpandDims", "Identity", "IdentityN", "PreventGradient", "Reshape", "Snapshot", "Squeeze", "StopGradient"}
# Operations that run early, because they need no gradient, and free their input then.
EARLY = {"Rank", "Shape", "ShapeN", "Size"}
# Operations whose result the step does not allocate.
GIVEN = {"Const", "Placeholder", "ReadVariableOp", "VarHandleOp"}


def kept_bytes(model, height, width):
    """Returns the bytes of all results of the forward pass of one image that operations of its backward pass read.

    Args:
        model: HTC with variables.
        height, width: int, padded size of the image.
    """
    first = 0  # index of the first operation of the backward pass

    def passes(images, sizes):
        nonlocal first
        with tf.GradientTape() as tape:
            results = run_parts(model, images, sizes)
            total = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in results])
        first = len(tf.compat.v1.get_default_graph().get_operations())
        return [x for x in tape.gradient(total, model.trainable_variables) if x is not None]

    specs = tf.TensorSpec([1, height, width, 3], tf.uint8), tf.TensorSpec([1, 2])
    graph = tf.function(passes, autograph=False).get_concrete_function(*specs).graph
    operations, needed = graph.get_operations(), needed_operations(graph.outputs)
    return bytes_between(operations[:first], [op for op in operations[first:] if op in needed])


def needed_operations(tensors):
    """Returns the operations that tensors depend on; TensorFlow runs no others."""
    needed, todo = set(), [x.op for x in tensors]
    while todo:
        op = todo.pop()
        if op not in needed:
            needed.add(op)
            todo += [*(x.op for x in op.inputs), *op.control_inputs]
    return needed


def bytes_between(forward, backward):
    """Returns the bytes of the buffers that operations of `forward` write and operations of `backward` read."""
    forward, kept = set(forward), {}
    for op in backward:
        buffers = [buffer_of(x) for x in op.inputs] if op.type not in EARLY else []
        kept |= {x.ref(): x for x in buffers if x.op in forward and x.op.type not in GIVEN}
    return sum(x.dtype.size * math.prod(x.shape) for x in kept.values() if x.shape.is_fully_defined())


def buffer_of(tensor):
    """Returns the tensor whose buffer this one shares."""
    while tensor.op.type in ALIASES:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor


def run_parts(model, images, sizes):
    """Returns the results of all parts in training: pyramids, RPN, semantic and context head, box and mask heads."""
    results = []
    for pyramid in model.extract_pyramids(images, sizes, True, with_assistant=True):  # each has all of the rest
        rpn = model.rpn(pyramid, sizes, True)
        results += [rpn.logits, rpn.deltas]
        heads = [head for head in (model.semantic_head, model.context_head) if head is not None]
        results += tf.nest.flatten([head(pyramid, training=True) for head in heads])
        for stage in model.stages:
            results += stage.box_head(draw_features(model, model.roi_sampler.limit, "box_size"), training=True)
        results += run_mask_heads(model)
    return results


def run_mask_heads(model):
    """Returns each stage's mask logits, of as many RoIs as a trained network has positives."""
    shares = [SHARES[min(index, len(SHARES) - 1)] for index in range(len(model.mask_heads))]
    rows = [math.ceil(model.roi_sampler.mask_limit * share) for share in shares]
    return train_mask_heads(model, [draw_features(model, count, "mask_size") for count in rows])


def train_mask_heads(model, pooled):
    """Returns each stage's mask logits in training, given the features [P, S, S, C] of its own RoIs."""
    heads, flow, results = model.mask_heads, model.mask_info_flow, []
    for index, features in enumerate(pooled):
        # A stage's RoIs also pass through the previous heads if information flows.
        chain = heads[0 if flow else index : index + 1]
        results.append(chain[-1](mask_information_flow(chain, features, flow, training=True)[-1]))
    return results


def draw_features(model, rows, size):
    """Returns features of RoIs that are no constant: the step allocates them, and the backward pass reads them."""
    side = getattr(model.roi_pooler, size)
    return tf.random.uniform([rows, side, side, model.neck.channels])
