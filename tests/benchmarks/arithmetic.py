"""FLOPs of a network's products, part by part: two per multiply-add, counted by the shapes of traced operations.

Each part is traced on one image or one RoI, so rows that only pad a batch are not counted. Only convolutions and matrix
products are; everything else is a small share and has other limits.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from htc_tf.models.mask_head import mask_information_flow


class Flop(NamedTuple):
    """FLOPs of the forward and of the backward pass."""

    forward: float
    backward: float = 0

    def times(self, rows):
        return Flop(self.forward * rows, self.backward * rows)


def count_parts(model, height, width, images, rois, masks, training=False):
    """Counts the FLOPs of a batch.

    Args:
        model: HTC, with variables.
        height, width: Size of the padded images.
        images: Images in the batch.
        rois: Per stage, the RoIs of its box head, over all images.
        masks: The RoIs of the mask heads, over all images: in training a number per stage, else that of the detections.
        training: If True, also counts the gradients of all trained variables.
    Returns:
        {part: Flop}
    """
    sizes = tf.constant([[height, width]], tf.float32)

    def trained(*layers):
        return [v for layer in layers for v in layer.trainable_variables] if training else None

    extraction, pyramid = count(
        lambda image: model.extract_pyramids(image, sizes, training)[0],
        [[1, height, width, 3]],
        trained(model.backbone, model.neck),
        first=True,
    )
    levels = sorted(pyramid)
    maps = [pyramid[level].shape for level in levels]

    def from_maps(function, layer):
        return count(lambda *maps: function(dict(zip(levels, maps, strict=True))), maps, trained(layer))[0]

    def from_roi(function, side, *layers):
        return count(function, [[1, side, side, maps[0][-1]]], trained(*layers))[0]

    def stage_masks(heads):
        """Counts one positive RoI of the last of the heads, which passes the convolutions of those before it too."""

        def masks(features):
            return heads[-1](mask_information_flow(heads, features, model.mask_info_flow, training=True)[-1])

        return from_roi(masks, mask_size, *heads)

    def relay(number):
        """Counts the mask RoIs' pass through the last box head, if its features are relayed to the mask head."""
        if model.relay is None:
            return Flop(0.0)
        head = box_heads[-1]
        one = from_roi(lambda x: model.relay(head.extract_features(x), mask_size), box_size, head, model.relay)
        return one.times(number)

    def final_masks(features):
        trunks = mask_information_flow(mask_heads, features, model.mask_info_flow)
        return [head(trunk) for head, trunk in zip(mask_heads, trunks, strict=True)]

    box_size, mask_size = model.roi_pooler.box_size, model.roi_pooler.mask_size
    box_heads, mask_heads = [stage.box_head for stage in model.stages], model.mask_heads
    rpn = from_maps(lambda pyramid: model.rpn(pyramid, sizes, training)[1:3], model.rpn)
    parts = {"backbone and FPN": extraction.times(images), "RPN": rpn.times(images)}
    which = slice(None) if training else slice(1, None)  # the logits of both branches serve the loss alone
    if model.semantic_head is not None:
        semantic = from_maps(lambda maps: model.semantic_head(maps, training=training)[which], model.semantic_head)
        parts["semantic branch"] = semantic.times(images)
    if model.context_head is not None:
        context = from_maps(lambda maps: model.context_head(maps, training=training)[which], model.context_head)
        parts["global context"] = context.times(images)
    heads = [from_roi(head, box_size, head) for head in box_heads]
    parts["box stages"] = add(flop.times(number) for flop, number in zip(heads, rois, strict=True))
    if model.masks and training:
        chains = [mask_heads[0 if model.mask_info_flow else i : i + 1] for i in range(len(mask_heads))]
        numbers = [number for number, stage in zip(masks, model.stages, strict=True) if stage.mask_head is not None]
        each = [stage_masks(chain).times(number) for chain, number in zip(chains, numbers, strict=True)]
        parts["masks"] = add([*each, relay(sum(numbers))])
    elif model.masks:
        parts["masks"] = add([from_roi(final_masks, mask_size).times(masks), relay(masks)])
    return parts


def add(flops):
    return Flop(*map(sum, zip(*flops, strict=True)))


def count(function, shapes, trained=None, first=False):
    """Counts the FLOPs of a function of tensors of these shapes.

    Args:
        function: A function of tensors that returns a structure of tensors.
        shapes: Shapes of its arguments.
        trained: Variables whose gradients are counted; None for no backward pass.
        first: If True, the arguments are the network's input, which requires no gradient.
    Returns:
        (Flop, the function's results as symbolic tensors)
    """

    def learn(*inputs):
        if trained is None:
            return function(*inputs), []
        with tf.GradientTape() as tape:
            tape.watch([] if first else inputs)
            outputs = function(*inputs)
        return outputs, tape.gradient(outputs, trained if first else [*trained, *inputs])

    specs = [tf.TensorSpec(shape) for shape in shapes]
    results = tf.function(learn, autograph=False).get_concrete_function(*specs).graph.structured_outputs
    forward, everything = ancestors(results[0]), ancestors(results)
    backward = everything.keys() - forward.keys()
    flop = Flop(sum(map(products, forward.values())), sum(products(everything[name]) for name in backward))
    return flop, results[0]


def ancestors(tensors):
    """Returns {name: operation} of everything that the tensors depend on."""
    todo, found = [x.op for x in tf.nest.flatten(tensors) if x is not None], {}
    while todo:
        operation = todo.pop()
        if operation.name not in found:
            found[operation.name] = operation
            todo += [*operation.control_inputs, *(x.op for x in operation.inputs)]
    return found


def products(operation):
    """Returns the FLOPs of one operation by the static shapes of its tensors."""
    inputs, kind = operation.inputs, operation.type
    if kind in ("Conv2D", "DepthwiseConv2dNative"):
        results, kernel = operation.outputs[0].shape, inputs[1].shape
    elif kind == "Conv2DBackpropInput":
        results, kernel = inputs[2].shape, inputs[1].shape
    elif kind == "Conv2DBackpropFilter":
        results, kernel = inputs[2].shape, operation.outputs[0].shape
    elif kind in ("MatMul", "BatchMatMulV2"):
        transposed = operation.get_attr("transpose_a" if kind == "MatMul" else "adj_x")
        return 2 * math.prod(operation.outputs[0].shape) * inputs[0].shape[-2 if transposed else -1]
    else:
        return 0
    # A result sums a window over its group's input channels (kernel [kh, kw, C_in, C_out]), a depthwise one over one.
    return 2 * math.prod(results) * math.prod(kernel[:2] if kind.startswith("Depthwise") else kernel[:3])
