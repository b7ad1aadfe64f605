"""A network of two convolutions that replaces the detector in tests of what surrounds it. It trains in a second."""

import contextlib
import functools

import pytest
import tensorflow as tf

from htc_tf import config
from htc_tf.structures import Detections
from htc_tf.training import memory, trainer
from tests.training import toy

LOSSES = ("some", "few")


class ToyDetector(toy.Network):
    """Has the attributes of a detector that a training and its evaluations read."""

    semantic_head, masks = None, True

    def build_variables(self, blank=False):
        self(tf.zeros([1, 8, 8, 3]), tf.zeros([1, 2]))

    def call(self, images, sizes, truth=None, seed=None, validate=False):
        return super().call(images, sizes, None if validate else truth, seed)

    def infer(self, images, sizes):
        """Returns one object an image, whose score, box and mask depend on the weights."""
        logits = self(images, sizes).rpn.logits  # [B, H / 2, W / 2, 2]
        scores = tf.sigmoid(tf.reduce_mean(logits[..., 0], axis=[1, 2]))[:, tf.newaxis]  # [B, 1]
        boxes = tf.concat([tf.zeros_like(sizes), sizes], 1)[:, tf.newaxis] * scores[..., tf.newaxis]  # [B, 1, 4]
        masks = tf.sigmoid(tf.image.resize(9 * logits, [28, 28]))[tf.newaxis, ..., 1]  # [1, B, 28, 28]
        masks = tf.transpose(masks, [1, 0, 2, 3])  # [B, 1, 28, 28]
        classes, valid = tf.zeros_like(scores, tf.int32), tf.ones_like(scores, tf.bool)
        return Detections(boxes, scores, classes, valid, masks, masks[:, :, tf.newaxis])


def use(experiment, norm=None):
    """Makes an experiment's model the toy, with a norm. Returns the experiment."""
    experiment.build_model = functools.partial(ToyDetector, norm)
    # The toy's loss is NaN if a size is, and its sum over a batch would depend on the batch's division.
    experiment.objective = lambda outputs, truth, sizes, seed: toy.objective(outputs, truth, 0 * sizes, seed)
    return experiment


@contextlib.contextmanager
def without_estimate():
    """Trainings estimate no memory, for which they would count the activations of a detector's parts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("available_memory", "gpu_memory"):
            patch.setattr(memory, name, lambda *_: None, raising=False)
        yield


def train(gin_file, params, records, val_records, run, norm=None, **options):
    """Calls trainer.train with the toy."""
    experiment, resolved = config.load([gin_file], params)
    with without_estimate():
        return trainer.train(use(experiment, norm), resolved, records, val_records, run, **options)
