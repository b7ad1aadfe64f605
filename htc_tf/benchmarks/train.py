"""Mode `train`: a training step, forward, backward and update, on one batch again and again.

Before it: `htc_tf.benchmark`, which has parsed gin. A step costs what its positives cost, and a network that has learnt
nothing finds none; so the samplers are offered boxes near the objects, until each stage has as many as the same step
had in mmdetection (128, 76 and 44 of 512 RoIs with 8 objects). All else is as in training: as many proposals, and the
same matching and sampling.
"""

import numpy as np
import tensorflow as tf

from htc_tf.benchmarks.arithmetic import Arithmetic
from htc_tf.benchmarks.drawn_scene import draw_boxes, draw_picture, propose_usual_boxes
from htc_tf.benchmarks.hlo import Program
from htc_tf.benchmarks.machine import Rates, Share
from htc_tf.benchmarks.measure import measure
from htc_tf.data.ground_truth import make_row
from htc_tf.data.resize import choose_shape, fitted_size
from htc_tf.errors import UserError
from htc_tf.experiment import Experiment
from htc_tf.inference.detector import build_variables
from htc_tf.models.targets import RoISampler
from htc_tf.ops import boxes as box_ops
from htc_tf.structures import Batch
from htc_tf.training.gradients import make_gradients
from htc_tf.training.start import check_determinism
from htc_tf.training.step import make_train_step

# Of the most positives that a sampler takes, which is 128: 128, 76 and 44.
SHARES = (1, 76 / 128, 44 / 128)
SEED = (0, 0)


def run(work):
    """Work -> Measurement of one step.

    Raises:
        UserError: there is no room for the objects.
        FloatingPointError: a step was not finite.
    """
    experiment, model, batch = prepare(work)
    optimizer = experiment.optimizer.build()
    optimizer.build(model.trainable_variables)
    number = tf.Variable(0, dtype=tf.int64, trainable=False)
    train_step = make_train_step(experiment, tf.distribute.get_strategy(), model, optimizer, number, seed=0)

    def step():
        # Reading a number waits until it has been computed.
        if not bool(train_step(batch)["finite"]):
            raise FloatingPointError("a step of the benchmark was not finite")

    measurement = measure(step, "step", 1, work.repeats, warmup=1, details={})
    counts = count_sampled(model, batch)
    flop = count_flop(model, batch, counts)
    forward, backward = (sum(numbers) for numbers in zip(*flop.values(), strict=True))
    rates = Rates(work.precision)
    details = {
        "compiled": "forward and backward by XLA" if experiment.xla else "as a graph",
        **{name: numbers for name, numbers in counts.items()},
        "share of the limit": Share(
            "FLOP", forward + backward, rates["matmul_rate"], measurement.cpu_seconds["median"]
        ),
        "machine": rates,
        "forward": f"{forward / 1e9:.1f} GFLOP",
        "backward": f"{backward / 1e9:.1f} GFLOP",
        **{name: Row(part._asdict()) for name, part in flop.items()},
    }
    return measurement._replace(details=details)


class Row(dict):
    """FLOP of a part, for the JSON; as text, a line of the table."""

    def __str__(self):
        return f"forward {self['forward'] / 1e9:.3f}, backward {self['backward'] / 1e9:.3f} GFLOP"


def prepare(work):
    """-> (Experiment, model, Batch)"""
    experiment = Experiment()
    if work.objects > experiment.train_input.max_objects:
        raise UserError(
            f"--objects {work.objects}: MAX_OBJECTS = {experiment.train_input.max_objects} leaves no room for them"
        )
    experiment.prepare_runtime(seed=0)
    model = experiment.build_model()
    propose_usual_boxes(model.rpn, work.height, work.width)
    model.roi_sampler = OfferedPositives(model.roi_sampler, model.stages, work.objects)
    build_variables(model)
    check_determinism(experiment, model)
    return experiment, model, draw_batch(experiment, model, work)


class OfferedPositives(RoISampler):
    """A model's sampler, offered in each stage so many boxes near the objects as are to be positive.

    In exchange, what else would be positive is made too small for it, so that the number of RoIs stays.
    """

    def __init__(self, sampler, stages, objects):
        """
        Args:
            sampler: the model's own, which samples.
            stages: the model's; their thresholds differ.
            objects: in each image; their own boxes are positive too.
        """
        vars(self).update(vars(sampler))
        self.objects, most = objects, int(sampler.limit * sampler.positive_fraction)
        wanted = [round(most * share) for share in SHARES[: len(stages)]]
        thresholds = [stage.iou_threshold for stage in stages]
        self.offered = {t: max(0, number - objects) for t, number in zip(thresholds, wanted, strict=True)}

    def __call__(self, boxes, valid, truth, iou_threshold, seed):
        offered = min(self.offered[iou_threshold], boxes.shape[1])
        near = tf.gather(truth.boxes, tf.range(offered) % self.objects, axis=1)
        sides = tf.tile(near[..., 2:] - near[..., :2], [1, 1, 2])
        # A side moves by a 25th at most: the overlap stays above 0.7. Of random numbers only the bits are the same
        # compiled or not.
        bits = tf.random.stateless_uniform(tf.shape(near), seed, None, None, tf.uint32, alg="philox")
        near += sides * 0.08 * (tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) / 2**24 - 0.5)
        boxes, valid = boxes[:, offered:], valid[:, offered:]
        overlap = tf.reduce_max(tf.where(truth.valid[:, tf.newaxis], box_ops.iou(boxes, truth.boxes), 0.0), axis=-1)
        small = tf.concat([boxes[..., :2], boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2]) / 4], axis=-1)
        boxes = tf.where(overlap[..., tf.newaxis] < iou_threshold, boxes, small)
        boxes, valid = tf.concat([near, boxes], axis=1), tf.concat([tf.ones_like(near[..., 0], tf.bool), valid], axis=1)
        return super().__call__(boxes, valid, truth, iou_threshold, seed)

    def expect(self, images):
        """What `count_sampled` will find in so many images, where there are boxes enough."""
        numbers = [min(number + self.objects, self.mask_limit) for number in self.offered.values()]
        rois = [images * self.limit] * len(numbers)
        return {"RoIs a stage": rois, "positives for masks": [images * number for number in numbers]}


def draw_batch(experiment, model, work):
    """A Batch of pictures with so many objects each, elliptic in their boxes, and a semantic map."""
    source, labels = experiment.train_input, getattr(model.semantic_head, "num_labels", 1)
    size = work.height, work.width
    shape = source.shapes[choose_shape(fitted_size(*size, source.min_side, source.max_side), source.shapes)]
    cells = (np.arange(source.mask_size) + 0.5) / source.mask_size * 2 - 1
    ellipse = np.where(np.hypot(*np.meshgrid(cells, cells)) <= 1, 255, 0).astype(np.uint8)

    def draw_row(number):
        boxes = draw_boxes(work.objects, *size, seed=number)
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, labels, (-(-size[0] // 64), -(-size[1] // 64))).astype(np.uint8)
        sample = {
            "image": draw_picture(*size, seed=number),
            "boxes": boxes,
            "classes": generator.integers(0, experiment.num_classes, work.objects).astype(np.int32),
            "masks": np.tile(ellipse, (work.objects, 1, 1)),
            "crop_boxes": boxes,
            "semantic": np.kron(coarse, np.ones((64, 64), np.uint8))[: size[0], : size[1]],
            "image_id": np.int64(number),
            "original_size": np.int32(size),
        }
        sample = {name: tf.constant(value) for name, value in sample.items()}
        sample |= {"min_side": source.min_side, "max_side": source.max_side}
        return make_row(sample, shape, source.max_objects, source.semantic_stride)

    rows = [draw_row(number) for number in range(work.batch)]
    return tf.nest.map_structure(lambda *parts: tf.stack(parts), *rows)


def count_sampled(model, batch):
    """{what: how many of it in each stage, all images together} of a step."""

    @tf.function(autograph=False)
    def count(batch):
        stages = model(batch.images, batch.sizes, batch.truth, tf.constant(SEED)).stages
        masks = [tf.constant(0) if s.mask_rois is None else tf.math.count_nonzero(s.mask_rois.valid) for s in stages]
        kinds = [[s.rois.valid for s in stages], [s.rois.positive for s in stages]]
        return [*([tf.math.count_nonzero(x) for x in kind] for kind in kinds), masks]

    names = ("RoIs a stage", "positive RoIs", "positives for masks")
    return {name: [int(x) for x in found] for name, found in zip(names, count(batch), strict=True)}


def count_flop(model, batch, counts):
    """{part: Flop} of the step, of its true RoIs alone."""
    images, height, width, _ = batch.images.shape
    rois, positives = counts["RoIs a stage"], counts["positives for masks"]
    return Arithmetic(model, height, width, training=True).parts(images, rois, positives)


def program(work):
    """Work -> the Program of forward and backward."""
    experiment, model, batch = prepare(work)
    learn = make_gradients(experiment, model, replicas=1)
    flop = sum(map(sum, count_flop(model, batch, model.roi_sampler.expect(work.batch)).values()))

    def gradients(images, sizes, truth, seed):
        nameless = tf.zeros(images.shape[:1], tf.int64)
        return learn(Batch(images, sizes, tf.cast(sizes, tf.int32), nameless, truth), seed, None, tf.constant(False))

    # What a step does not look at is no parameter.
    arguments = {"images": batch.images, "sizes": batch.sizes, "truth": batch.truth, "seed": tf.constant(SEED)}
    return Program(gradients, arguments, work._asdict(), flop)
