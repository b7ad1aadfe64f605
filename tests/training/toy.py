"""A network of two layers for tests of `make_train_step`: traced in a second, with uneven counts.

The tests of the step load it by path. `main` trains each case of CASES on 1, 2 and 4 logical devices, which need a
process of their own, and writes the numbers.
"""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from htc_tf.models.htc_loss import Loss, count_where, total_where
from htc_tf.models.layers import Convolution
from htc_tf.moving_averages import MovingAverages
from htc_tf.structures import Batch, GroundTruth, Outputs, Proposals, RPNOutput
from htc_tf.training.optim import SGD
from htc_tf.training.schedules import StepSchedule
from htc_tf.training.step import make_train_loop, make_train_step

BATCH, STEPS = 8, 3
SGD_RECIPE = SGD(StepSchedule(base=0.4, batch_size=4, steps=9, warmup_steps=0), decay=0.01)
CASES = {  # devices, accumulate, xla, norm
    "whole": (1, 1, False, None),
    "2 devices": (2, 1, False, None),
    "4 devices": (4, 1, False, None),
    "4 parts": (1, 4, False, None),
    "2 devices, 2 parts": (2, 2, False, None),
    "xla, 2 devices, 2 parts": (2, 2, True, None),
    "synchronized": (1, 1, False, "sync_batch"),
    "synchronized, 2 devices": (2, 1, False, "sync_batch"),
}


class Network(tf.keras.layers.Layer):
    def __init__(self, norm):
        super().__init__(name="toy")
        self.features = Convolution(4, 3, 2, norm=norm, relu=True, initializer="glorot_uniform", name="features")
        self.predict = Convolution(2, 1, initializer="glorot_uniform", name="predict")

    def call(self, images, sizes, truth=None, seed=None):
        x = tf.cast(images, tf.float32) / 255
        x = tf.cast(self.predict(self.features(x, training=truth is not None)), tf.float32)
        boxes = tf.zeros([images.shape[0], 1, 4])
        proposals = Proposals(boxes, boxes[..., 0], tf.ones_like(boxes[..., 0], tf.bool))
        return Outputs(None, RPNOutput(None, x, None, proposals), (), None, None)


def objective(outputs, truth, sizes, seed):
    """Two losses whose counts follow from the forward pass; the second counts nothing in some images."""
    x = outputs.rpn.logits
    some, few = x[..., 0] > 0, (x[..., 1] > 0) & truth.valid[:, :1, tf.newaxis]
    # NaN among the sizes makes this loss and its gradient NaN; among the images it would end at a ReLU on a CPU.
    distance = tf.square(x[..., 0] - 1) * (1 + tf.reduce_sum(sizes))
    return {
        "some": Loss(total_where(distance, some), count_where(some), 0.5),
        "few": Loss(total_where(tf.exp(x[..., 1]), few), count_where(few), 1.0),
    }


def make_batches(count=STEPS, side=8):
    """Batches of BATCH images of side x side."""
    draw = np.random.default_rng(0)
    for _ in range(count):
        zeros = tf.zeros([BATCH, 1, 4])
        truth = GroundTruth(
            boxes=zeros,
            classes=tf.zeros([BATCH, 1], tf.int32),
            valid=tf.constant(np.arange(BATCH)[:, np.newaxis] % 3 > 0),
            masks=tf.zeros([BATCH, 1, 4, 4], tf.uint8),
            crop_boxes=zeros,
            semantic=tf.zeros([BATCH, 1, 1], tf.int32),
        )
        images = tf.constant(draw.uniform(0, 255, [BATCH, side, side, 3]), tf.float32)
        yield Batch(images, tf.zeros([BATCH, 2]), tf.zeros([BATCH, 2], tf.int32), tf.zeros([BATCH], tf.int64), truth)


def start(
    devices=1, accumulate=1, xla=False, norm=None, recipe=SGD_RECIPE, decay=None, clip_norm=None, objective=objective
):
    """Returns a model and the parts of its training, with the same weights in each call."""
    tf.keras.utils.set_random_seed(1)
    # Collective operations, the default, cannot have groups of two sizes in one process.
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)], reduction)
    experiment = SimpleNamespace(
        accumulate=accumulate, xla=xla, clip_norm=clip_norm, objective=objective, log_every=1, steps=STEPS
    )
    with strategy.scope():
        model = Network(norm)
        model(tf.zeros([1, 8, 8, 3]), tf.zeros([1, 2]))
        optimizer = recipe.build()
        optimizer.build(model.trainable_variables)
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
        averages = None if decay is None else MovingAverages(model.trainable_variables, decay)
    train_step = make_train_step(experiment, strategy, model, optimizer, step, 0, averages)
    return SimpleNamespace(
        strategy=strategy,
        model=model,
        optimizer=optimizer,
        step=step,
        averages=averages,
        train_step=train_step,
        train_loop=make_train_loop(train_step, shapes=((8, 8), (16, 8))),
    )


def iterate(training, batches):
    """Returns an iterator over the distributed batches of a list."""
    batches = list(batches)
    spec = tf.nest.map_structure(
        lambda *xs: tf.TensorSpec(
            [a if len({x.shape[i] for x in xs}) == 1 else None for i, a in enumerate(xs[0].shape)], xs[0].dtype
        ),
        *batches,
    )
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    return iter(training.strategy.experimental_distribute_dataset(dataset))


def spoil(batch, value=float("nan")):
    """Returns the batch with a loss that is not finite."""
    return batch._replace(sizes=tf.fill(batch.sizes.shape, value))


def main(path):
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    arrays = {}
    for case, settings in CASES.items():
        training = start(*settings)
        for number, batch in zip(range(STEPS), iterate(training, make_batches()), strict=False):
            numbers = training.train_step(batch)
            arrays |= {f"{case}/{number}/{name}": value.numpy() for name, value in numbers.items()}
            for index, velocity in enumerate(training.optimizer.velocities):
                arrays[f"{case}/{number}/velocity{index}"] = velocity.numpy()
        for index, variable in enumerate(training.model.variables):
            arrays[f"{case}/{number}/variable{index}"] = variable.numpy()
    np.savez(path, **arrays)
