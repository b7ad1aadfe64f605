"""How many FLOP a network's products take, by part: two for a product and its sum.

Before it: a model with variables. After it: modes `inference` and `train` hold their time against the machine's rate.
Each part is traced on one image or one RoI, and TensorFlow counts; so rows that only fill up a batch are nowhere in it.
"""

from typing import NamedTuple

import tensorflow as tf

from htc_tf.engine.training.summary import flops
from htc_tf.models.mask_head import run_trunks

# Convolutions and products of matrices, with their gradients; all else is little, and has other limits.
PRODUCTS = {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2"}


class Flop(NamedTuple):
    forward: float
    backward: float = 0.0

    def times(self, rows):
        return Flop(self.forward * rows, self.backward * rows)


class Arithmetic:
    """The products of one model on images of one size."""

    def __init__(self, model, height, width):
        """
        Args:
            model: HTC, with variables.
            height, width: of the padded images.
        """
        self.model, self.image = model, [1, height, width, 3]
        self.sizes = tf.constant([[height, width]], tf.float32)
        pyramid = trace(lambda x: model.extract_pyramid(x, self.sizes), [self.image]).structured_outputs
        self.levels = sorted(pyramid)
        self.maps = [pyramid[level].shape for level in self.levels]
        self.channels = self.maps[0][-1]

    def inference(self, images, rois, detections):
        """{part: Flop} of so many images, RoIs and detections together."""
        model = self.model
        parts = {name: flop.times(images) for name, flop in self._image(training=False).items()}
        parts["box stages"] = add(self._box(stage).times(rois) for stage in model.stages)
        if model.masks:
            heads = [stage.mask_head for stage in model.stages]

            def masks(features):
                trunks = run_trunks(heads, features, model.mask_info_flow)
                return [head(trunk) for head, trunk in zip(heads, trunks, strict=True)]

            parts["masks"] = count(masks, [self._roi(model.roi_align.mask_size)]).times(detections)
        return parts

    def training(self, images, rois, positives):
        """{part: Flop} of a step.

        Args:
            images: in the batch.
            rois, positives: of each stage, how many its box head learns from, and its mask head, all images together.
        """
        parts = {name: flop.times(images) for name, flop in self._image(training=True).items()}
        boxes = [self._box(stage, stage.box_head.trainable_variables) for stage in self.model.stages]
        parts["box stages"] = add(flop.times(number) for flop, number in zip(boxes, rois, strict=True))
        if self.model.masks:
            masks = (self._stage_masks(index).times(number) for index, number in enumerate(positives))
            parts["masks"] = add(masks)
        return parts

    def _image(self, training):
        """{part: Flop} of one image, as far as RoIs have no part in it."""
        model, sizes = self.model, self.sizes

        def from_maps(head):
            return lambda *maps: head(dict(zip(self.levels, maps, strict=True)))

        def learnt(*layers):
            return [v for layer in layers for v in layer.trainable_variables] if training else None

        def extract(image):
            return list(model.extract_pyramid(image, sizes, training).values())

        rpn = from_maps(lambda pyramid: model.rpn(pyramid, sizes, training)[1:3])
        parts = {
            "backbone and FPN": count(extract, [self.image], learnt(model.backbone, model.neck), first=True),
            "RPN": count(rpn, self.maps, learnt(model.rpn)),
        }
        if model.semantic_head is not None:
            # The labels are for learning alone.
            which = slice(None) if training else slice(1, None)
            semantic = from_maps(lambda pyramid: model.semantic_head(pyramid, training=training)[which])
            parts["semantic branch"] = count(semantic, self.maps, learnt(model.semantic_head))
        return parts

    def _box(self, stage, learnt=None):
        """Flop of one RoI."""
        return count(stage.box_head, [self._roi(self.model.roi_align.box_size)], learnt)

    def _stage_masks(self, index):
        """Flop of one positive, which passes the trunks of the stages before too, if information flows."""
        model = self.model
        heads = [stage.mask_head for stage in model.stages[0 if model.mask_info_flow else index : index + 1]]

        def masks(features):
            return heads[-1](run_trunks(heads, features, model.mask_info_flow, training=True)[-1])

        learnt = [v for head in heads for v in head.trainable_variables]
        return count(masks, [self._roi(model.roi_align.mask_size)], learnt)

    def _roi(self, side):
        return [1, side, side, self.channels]


def add(flops):
    return Flop(*map(sum, zip(*flops, strict=True)))


def count(function, shapes, learnt=None, first=False):
    """Flop of a function of tensors of these shapes.

    Args:
        learnt: variables whose gradients are wanted; None: there is no backward pass.
        first: whether nothing comes before it, so that its inputs need no gradients.
    """
    forward = products(function, shapes)
    if learnt is None:
        return Flop(forward)

    def learn(*inputs):
        with tf.GradientTape() as tape:
            tape.watch([] if first else inputs)
            outputs = function(*inputs)
        return outputs, tape.gradient(outputs, learnt if first else [*learnt, *inputs])

    return Flop(forward, products(learn, shapes) - forward)


def products(function, shapes):
    """FLOP of the convolutions and products of a function, as far as its outputs depend on them."""
    graph = trace(function, shapes).graph
    todo, needed = [x.op for x in graph.outputs], {}
    while todo:
        operation = todo.pop()
        if operation.name not in needed:
            needed[operation.name] = operation.type
            todo += [*operation.control_inputs, *(x.op for x in operation.inputs)]
    return sum(number for name, number in flops(graph) if needed.get(name) in PRODUCTS)


def trace(function, shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return tf.function(function, autograph=False).get_concrete_function(*specs)
