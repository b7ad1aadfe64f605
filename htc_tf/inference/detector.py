"""A trained model at work: restore it from a run, detect, evaluate a folder of records.

Comes after training; the commands eval, predict and export, and training's own evaluations, start here.

Records are detected on all replicas of a strategy at once. Each takes whole batches of `eval/Input.batch_size` images,
and which images make a batch does not depend on how many replicas there are: so neither does any figure.
"""

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import restore_weights
from htc_tf.data.preprocessing import choose_shape, fitted_size, pad_to, resize_to_fit
from htc_tf.errors import UserError
from htc_tf.inference.results import image_results
from htc_tf.structures import Detections


def restore(experiment, run, seed=0, find_strategy=tf.distribute.get_strategy):
    """-> a Detector with the newest weights of a Run, averaged where its configuration says `ema_decay`.

    Args:
        experiment: Experiment.
        run: a Run.
        seed: of what is random in the model's building.
        find_strategy: -> the tf.distribute strategy to detect with, called when TensorFlow has been told how to run.
    Raises:
        UserError: there is no checkpoint, or it does not fit the configuration.
    """
    remedy = "its weights have the former number; leave NUM_CLASSES out"
    experiment.check_classes(run.read_categories(), run.folder, remedy)
    experiment.prepare_runtime(seed)
    strategy = find_strategy()
    with strategy.scope():
        model = experiment.build_model()
        model.build_variables(blank=True)
        if restore_weights(run, model, averaged=experiment.ema_decay is not None) is None:
            raise UserError(f"{run.checkpoints} holds no checkpoint: train first, or name another run")
    return Detector(model, experiment, strategy)


class Detector:
    """Images in, detections out: the model, compiled once per padded shape."""

    def __init__(self, model, experiment, strategy=None):
        """
        Args:
            model: HTC, with variables, built under the strategy.
            experiment: its Experiment.
            strategy: of tf.distribute, on this machine alone; without one there is one replica.
        """
        self.model, self.input = model, experiment.eval_input
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        self.kinds = ("bbox", "segm") if model.masks else ("bbox",)
        self._detect = tf.function(
            lambda images, sizes: model.infer(images, sizes), jit_compile=experiment.xla, autograph=False
        )
        self.semantic_logits = tf.function(lambda images, sizes: model(images, sizes).semantic.logits, autograph=False)
        # XLA compiles each replica by itself: not what calls them all.
        self._detect_each = tf.function(
            lambda *images_and_sizes: self.strategy.run(lambda *one: self._detect(*one), images_and_sizes),
            autograph=False,
        )

    def detect(self, images, sizes):
        """images [B, H, W, 3] uint8, sizes [B, 2] -> Detections as NumPy arrays, in pixels of the padded input."""
        found = self._detect(images, sizes)._replace(stage_masks=None)
        return Detections(*(None if x is None else x.numpy() for x in found))

    def detect_each(self, batches, stage_masks=False):
        """A Batch for each replica, all of one shape -> the Detections of each, as `detect` gives them.

        With `stage_masks` they include the masks of each stage.
        """

        def place(field):
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: getattr(batches[context.replica_id_in_sync_group], field)
            )

        found = self._detect_each(place("images"), place("sizes"))
        if not stage_masks:
            found = found._replace(stage_masks=None)
        local = [
            (None,) * len(batches)
            if x is None
            else [part.numpy() for part in self.strategy.experimental_local_results(x)]
            for x in found
        ]
        return [Detections(*fields) for fields in zip(*local, strict=True)]

    def detect_image(self, image):
        """image [H, W, 3] uint8, of any size -> its ImageResult, in its own pixels."""
        return self.detect_images([image])[0]

    def detect_images(self, images, rows=1):
        """Several images at once.

        Args:
            images: [H, W, 3] uint8 each, of any sizes for which `padded_shape` is the same.
            rows: the size of the batch, at least, which is filled up: another size would be compiled anew.
        Returns:
            Their ImageResults, each in its image's own pixels.
        """
        prepared = [self.prepare(image) for image in images]
        prepared += prepared[-1:] * (rows - len(images))
        pixels, sizes = (tf.concat(parts, axis=0) for parts in zip(*prepared, strict=True))
        found = self.detect(pixels, sizes)
        mine = Detections(*(None if x is None else x[: len(images)] for x in found))
        return image_results(mine, sizes[: len(images)], np.array([image.shape[:2] for image in images]))

    def prepare(self, image):
        """image [H, W, 3] uint8, of any size -> what `detect` takes: images [1, H', W', 3], sizes [1, 2]."""
        height, width = self.padded_shape(image)
        resized, size = resize_to_fit(tf.constant(image), self.input.min_side, self.input.max_side)
        return pad_to(resized, height, width)[tf.newaxis], size[tf.newaxis]

    def padded_shape(self, image):
        """(height, width) that an image [H, W, 3] is padded to."""
        size = fitted_size(*image.shape[:2], self.input.min_side, self.input.max_side)
        return self.input.shapes[choose_shape(size, self.input.shapes)]
