"""Detector: a trained model, restored from a run and compiled once for each padded image shape.

The commands predict, eval, export and explain use it, and the evaluations during training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from htc_tf.checkpoint import restore_weights
from htc_tf.data.preprocessing import choose_shape, fitted_size, pad_to, resize_to_fit
from htc_tf.errors import UserError
from htc_tf.inference.results import ImageResult, image_results
from htc_tf.inference.semantic_map import enlarge
from htc_tf.structures import Batch, Detections

if TYPE_CHECKING:
    from htc_tf.experiment import Experiment
    from htc_tf.models.htc import HTC
    from htc_tf.run import Run


def restore(
    experiment: Experiment,
    run: Run,
    seed: int = 0,
    find_strategy: Callable[[], tf.distribute.Strategy] = tf.distribute.get_strategy,
) -> Detector:
    """Returns a Detector with the newest weights of a run, or with their averages if the experiment has `ema_decay`.

    Args:
        experiment: Experiment.
        run: Run.
        seed: int, random seed of the model's initialization.
        find_strategy: Function that returns the tf.distribute.Strategy for detection, called once TensorFlow's runtime
            is configured.
    Raises:
        UserError: The run has no checkpoint, or it does not fit the configuration.
    """
    remedy = "its weights are for its own classes; leave NUM_CLASSES out"
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
    """Maps images to detections, and to the semantic map if it is wanted, in one pass of the network."""

    def __init__(self, model: HTC, experiment: Experiment, strategy: tf.distribute.Strategy | None = None) -> None:
        """
        Args:
            model: HTC with variables, built in the strategy's scope.
            experiment: Experiment of the model.
            strategy: tf.distribute.Strategy on this machine alone; None for a single replica.
        """
        self.model, self.input = model, experiment.eval_input
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        self.kinds = ("bbox", "segm") if model.masks else ("bbox",)
        self._detect = tf.function(
            lambda images, sizes: model.infer(images, sizes), jit_compile=experiment.xla, autograph=False
        )
        self._detect_semantic = tf.function(self._infer_semantic, jit_compile=experiment.xla, autograph=False)
        # Detections are pruned from this graph: the semantic map alone costs backbone, pyramid and semantic branch.
        self._semantic = tf.function(lambda images, sizes: model(images, sizes).semantic.logits, autograph=False)
        # XLA compiles the function of each replica, not the one that calls them all.
        self._detect_each = tf.function(
            lambda *images_and_sizes: self.strategy.run(lambda *one: self._detect(*one), images_and_sizes),
            autograph=False,
        )

    def _infer_semantic(self, images, sizes):
        """Returns (Detections, semantic logits [B, H / 8, W / 8, S]).

        With test-time augmentation one further pass, at the configured size, computes the logits.
        """
        outputs = self.model(images, sizes)
        augmented = self.model.test_time is not None
        detections = self.model.infer(images, sizes) if augmented else self.model.detect(outputs)
        return detections, outputs.semantic.logits

    def detect(self, images: np.ndarray | tf.Tensor, sizes: np.ndarray | tf.Tensor) -> Detections:
        """Returns Detections as NumPy arrays, in pixels of the padded input.

        Args:
            images: [B, H, W, 3] uint8.
            sizes: [B, 2] float32, height and width without padding.
        """
        return _to_numpy(self._detect(images, sizes))

    def detect_each(self, batches: Sequence[Batch], stage_masks: bool = False) -> list[Detections]:
        """Detects in one batch on each replica.

        Args:
            batches: List of a Batch per replica, all of one shape.
            stage_masks: If True, the Detections include the masks of each stage.
        Returns:
            List of the Detections of each batch, as `detect` returns them.
        """

        def place(field):
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: getattr(batches[context.replica_id_in_sync_group], field)
            )

        detections = self._detect_each(place("images"), place("sizes"))
        if not stage_masks:
            detections = detections._replace(stage_masks=None)
        per_field = [
            (None,) * len(batches)
            if value is None
            else [part.numpy() for part in self.strategy.experimental_local_results(value)]
            for value in detections
        ]
        return [Detections(*fields) for fields in zip(*per_field, strict=True)]

    def detect_image(self, image: np.ndarray, semantic: bool = False) -> ImageResult:
        """Returns the ImageResult of an image [H, W, 3] uint8 of any size, in its own pixels."""
        return self.detect_images([image], semantic=semantic)[0]

    def detect_images(self, images: Sequence[np.ndarray], rows: int = 1, semantic: bool = False) -> list[ImageResult]:
        """Detects in several images at once.

        Args:
            images: List of [H, W, 3] uint8, of any sizes that have the same `padded_shape`.
            rows: int, smallest batch size. A smaller batch is filled up, since each size is compiled separately.
            semantic: If True, the results have the semantic map too, from the same pass.
        Returns:
            List of ImageResults, each in its image's own pixels.
        Raises:
            UserError: `semantic` is True and the model has no semantic branch.
        """
        count = len(images)
        prepared = [self.prepare(image) for image in images]
        prepared += prepared[-1:] * (rows - count)
        pixels, sizes = (tf.concat(parts, axis=0) for parts in zip(*prepared, strict=True))
        if semantic:
            self._check_semantic()
            detections, logits = self._detect_semantic(pixels, sizes)
            detections = _to_numpy(detections)
        else:
            detections = self.detect(pixels, sizes)
        detections = Detections(*(None if field is None else field[:count] for field in detections))
        results = image_results(detections, sizes[:count], np.array([image.shape[:2] for image in images]))
        if semantic:
            maps = [enlarge_to(image, *row) for image, *row in zip(images, logits[:count], sizes[:count], strict=True)]
            results = [result._replace(labels=labels) for result, labels in zip(results, maps, strict=True)]
        return results

    def label_map(self, image: np.ndarray) -> np.ndarray:
        """Returns the semantic branch's label of each pixel, [H, W] uint8, of an image [H, W, 3] uint8.

        Raises:
            UserError: The model has no semantic branch.
        """
        self._check_semantic()
        images, sizes = self.prepare(image)
        return enlarge_to(image, self._semantic(images, sizes)[0], sizes[0])

    def _check_semantic(self):
        if self.model.semantic_head is None:
            raise UserError("a semantic map needs a model with the semantic branch (SEMANTIC = True)")

    def prepare(self, image: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns an image [H, W, 3] uint8 as `detect` takes it: images [1, H', W', 3] and sizes [1, 2]."""
        height, width = self.padded_shape(image)
        resized, size = resize_to_fit(tf.constant(image), self.input.min_side, self.input.max_side)
        return pad_to(resized, height, width)[tf.newaxis], size[tf.newaxis]

    def padded_shape(self, image: np.ndarray) -> tuple[int, int]:
        """Returns the (height, width) to which an image [H, W, 3] is padded."""
        height, width = image.shape[:2]
        size = fitted_size(height, width, self.input.min_side, self.input.max_side)
        return self.input.shapes[choose_shape(size, self.input.shapes)]


def enlarge_to(image: np.ndarray, logits: tf.Tensor, size: tf.Tensor) -> np.ndarray:
    """Returns labels [H, W] uint8 of an image from its logits [h, w, S], given its resized height and width."""
    return enlarge(logits, image.shape[:2], size / tf.constant(image.shape[:2], tf.float32))


def _to_numpy(detections):
    """Returns Detections as NumPy arrays, without the masks of each stage."""
    detections = detections._replace(stage_masks=None)
    return Detections(*(None if field is None else field.numpy() for field in detections))
