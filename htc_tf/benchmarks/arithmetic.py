"""How many FLOP a network's products take, by part: two for a product and its sum.

Before it: a model with variables. After it: modes `inference` and `train` hold their time against the machine's rate.
Each part is traced on one image or one RoI and its operations counted by their shapes; so rows that only fill up a
batch are nowhere in it. Convolutions and products of matrices alone are: all else is little, and has other limits.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from htc_tf.models.mask_head import run_trunks


class Flop(NamedTuple):
    forward: float
    backward: float = 0

    def times(self, rows):
        return Flop(self.forward * rows, self.backward * rows)


class Arithmetic:
    """The products of one model on images of one size."""

    def __init__(self, model, height, width, training=False):
        """
        Args:
            model: HTC, with variables.
            height, width: of the padded images.
            training: whether to count what a training step computes, or detection.
        """
        self.model, self.training = model, training
        self.sizes = tf.constant([[height, width]], tf.float32)
        # Nothing comes before the image: it needs no gradient.
        self.extraction, pyramid = count(
            lambda image: model.extract_pyramid(image, self.sizes, training),
            [[1, height, width, 3]],
            self._learnt(model.backbone, model.neck),
            first=True,
        )
        self.levels = sorted(pyramid)
        self.maps = [pyramid[level].shape for level in self.levels]

    def parts(self, images, rois, masks):
        """{part: Flop} of a batch, or of a step.

        Args:
            images: in the batch.
            rois: of each stage, how many its box head sees, all images together.
            masks: likewise, how many RoIs masks are learnt on; in detection one number, of the detections.
        """
        model = self.model
        parts = {"backbone and FPN": self.extraction.times(images), "RPN": self._rpn().times(images)}
        if model.semantic_head is not None:
            parts["semantic branch"] = self._semantic().times(images)
        heads = [self._box(stage) for stage in model.stages]
        parts["box stages"] = add(flop.times(number) for flop, number in zip(heads, rois, strict=True))
        if model.masks and self.training:
            heads = [self._stage_masks(index) for index in range(len(model.stages))]
            parts["masks"] = add(flop.times(number) for flop, number in zip(heads, masks, strict=True))
        elif model.masks:
            parts["masks"] = self._final_masks().times(masks)
        return parts

    def _rpn(self):
        return self._from_maps(lambda pyramid: self.model.rpn(pyramid, self.sizes, self.training)[1:3], self.model.rpn)

    def _semantic(self):
        # The labels are for learning alone.
        which = slice(None) if self.training else slice(1, None)
        head = self.model.semantic_head
        return self._from_maps(lambda pyramid: head(pyramid, training=self.training)[which], head)

    def _box(self, stage):
        """Of one RoI."""
        return self._from_roi(stage.box_head, self.model.roi_pooler.box_size, stage.box_head)

    def _stage_masks(self, index):
        """Of one positive, which passes the trunks of the stages before too, if information flows."""
        model = self.model
        heads = [stage.mask_head for stage in model.stages[0 if model.mask_info_flow else index : index + 1]]

        def masks(features):
            return heads[-1](run_trunks(heads, features, model.mask_info_flow, training=True)[-1])

        return self._from_roi(masks, model.roi_pooler.mask_size, *heads)

    def _final_masks(self):
        """Of one detection: every head's trunk and masks."""
        model = self.model
        heads = [stage.mask_head for stage in model.stages]

        def masks(features):
            trunks = run_trunks(heads, features, model.mask_info_flow)
            return [head(trunk) for head, trunk in zip(heads, trunks, strict=True)]

        return self._from_roi(masks, model.roi_pooler.mask_size)

    def _from_maps(self, function, layer):
        def from_maps(*maps):
            return function(dict(zip(self.levels, maps, strict=True)))

        return count(from_maps, self.maps, self._learnt(layer))[0]

    def _from_roi(self, function, side, *layers):
        return count(function, [[1, side, side, self.maps[0][-1]]], self._learnt(*layers))[0]

    def _learnt(self, *layers):
        return [v for layer in layers for v in layer.trainable_variables] if self.training else None


def add(flops):
    return Flop(*map(sum, zip(*flops, strict=True)))


def count(function, shapes, learnt=None, first=False):
    """Counts a function of tensors of these shapes.

    Args:
        learnt: variables whose gradients are wanted; None: there is no backward pass.
        first: whether nothing comes before it, so that its inputs need no gradients.
    Returns:
        (Flop, what the function returns, as symbolic tensors)
    """

    def learn(*inputs):
        if learnt is None:
            return function(*inputs), []
        with tf.GradientTape() as tape:
            tape.watch([] if first else inputs)
            outputs = function(*inputs)
        return outputs, tape.gradient(outputs, learnt if first else [*learnt, *inputs])

    specs = [tf.TensorSpec(shape) for shape in shapes]
    traced = tf.function(learn, autograph=False).get_concrete_function(*specs)
    results = traced.graph.structured_outputs
    forward, all_of_it = needed(results[0]), needed(results)
    backward = all_of_it.keys() - forward.keys()
    flop = Flop(sum(map(products, forward.values())), sum(products(all_of_it[name]) for name in backward))
    return flop, results[0]


def needed(tensors):
    """{name: operation} of a graph, as far as tensors depend on them."""
    todo, found = [x.op for x in tf.nest.flatten(tensors) if x is not None], {}
    while todo:
        operation = todo.pop()
        if operation.name not in found:
            found[operation.name] = operation
            todo += [*operation.control_inputs, *(x.op for x in operation.inputs)]
    return found


def products(operation):
    """FLOP of an operation, by the static shapes of what goes in and comes out."""
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
    # Each result adds up a window of all input channels of its group; a depthwise one, of its own channel.
    return 2 * math.prod(results) * math.prod(kernel[:2] if kind.startswith("Depthwise") else kernel[:3])
