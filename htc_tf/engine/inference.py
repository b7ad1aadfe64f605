"""A trained model at work: restore it from a run, detect, evaluate a folder of records.

Comes after training; the commands eval, predict and export, and training's own evaluations, start here.

Records are detected on all replicas of a strategy at once. Each takes whole batches of `eval/Input.batch_size` images,
and which images make a batch does not depend on how many replicas there are: so neither does any figure.
"""

import copy
import functools

import numpy as np
import tensorflow as tf

from htc_tf import fonts
from htc_tf.data.datasets import coco_from_records, load_info
from htc_tf.data.input import named_errors
from htc_tf.data.resize import choose_shape, fitted_size, pad_to, resize_to_fit
from htc_tf.engine.checkpoint import restore_weights
from htc_tf.engine.evaluation.crew import ALONE
from htc_tf.engine.evaluation.evaluator import evaluate_results
from htc_tf.engine.evaluation.results import coco_results, image_results, stream_results
from htc_tf.engine.prediction.visualize import draw, side_by_side
from htc_tf.engine.training.monitor import progress
from htc_tf.errors import UserError
from htc_tf.structures import Detections

PICTURES = 8
PICTURE_THRESHOLD = 0.3


def build_variables(model, divisor=32):
    """Runs the model once on nothing, so that all its variables exist before a checkpoint is restored.

    All of the image is padding: nothing is found in it, and so nothing has masks to compute.
    """
    model.infer(tf.zeros([1, divisor, divisor, 3], tf.uint8), tf.zeros([1, 2]))


def build_blank_variables(model):
    """As `build_variables`, but all are zero: random numbers that a checkpoint is to replace would take seconds."""

    def create(next_creator, initial_value=None, shape=None, dtype=None, **rest):
        if callable(initial_value) and shape is not None:
            initial_value = functools.partial(tf.zeros, shape, dtype)
        return next_creator(initial_value=initial_value, shape=shape, dtype=dtype, **rest)

    with tf.variable_creator_scope(create):
        build_variables(model)


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
        build_blank_variables(model)
        if restore_weights(run, model, averaged=experiment.ema_decay is not None) is None:
            raise UserError(f"{run.checkpoints} holds no checkpoint: train first, or name another run")
    return Detector(model, experiment, strategy)


class Interrupted(Exception):
    """Detection was told to end before its last image."""


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

    def batches(self, folder, start_step=0, crew=ALONE):
        """Steps through a folder of records: lists of Batches, one for each replica here, all of one padded shape."""
        replicas = self.replicas * crew.workers
        joint = copy.copy(self.input)
        joint.batch_size *= replicas
        parts = joint.dataset(folder, 0, start_step, crew.worker, crew.workers, replicas).prefetch(self.replicas)
        return zip(*[iter(parts)] * self.replicas, strict=True)

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


def detect_records(detector, info, pictures=0, crew=ALONE, journal=None):
    """Detects in a whole folder of records, or in a worker's part of it.

    Args:
        detector: a Detector.
        info: the folder's DatasetInfo.
        pictures: how many to draw, truth beside prediction.
        crew: the Crew of workers that share the work.
        journal: a Journal, whose images are not detected again, and which is told of each that is; or None.
    Returns:
        (results in COCO's format, ids of the images, both by ascending id; the drawings)
    Raises:
        Interrupted: the crew was told to stop.
    """
    entries = [] if journal is None else list(journal.entries)
    done = len(entries) // detector.replicas
    drawings = []

    def detect_steps():
        for batches in detector.batches(info.folder, done, crew):
            if crew.stopped():
                raise Interrupted
            yield from zip(batches, detector.detect_each(batches), strict=True)

    rows = detector.input.batch_size * detector.replicas
    total = -(-info.images // (crew.workers * rows)) * rows  # this worker's, what fills up its last batches included
    with progress(total=min(total, info.images), unit="img", desc="detect") as bar, named_errors(info.folder):
        bar.update(sum(len(ids) for ids, _ in entries))
        for batch, found in stream_results(detect_steps()):
            ids = batch.image_ids.numpy().tolist()
            real = [row for row, image_id in enumerate(ids) if image_id >= 0]
            entries.append(([ids[row] for row in real], coco_results(found, ids, info.category_ids)))
            if journal is not None:
                journal.write(*entries[-1])
            for row in real[: pictures - len(drawings)]:
                names = fonts.class_names(info.class_names, info.category_ids)
                drawings.append(draw_row(batch, found[row], row, names))
            bar.update(len(real))
    return *join(entries), drawings


def join(entries):
    """(ids of some images, results in them), ... -> (results, ids), by ascending id whoever detected them when."""
    results = sorted((result for _, found in entries for result in found), key=lambda result: result["image_id"])
    return results, sorted(image_id for ids, _ in entries for image_id in ids)


def evaluate_records(detector, info, annotations=None, pictures=0, crew=ALONE):
    """-> (metrics, results, pictures), on the chief of the crew; None on its other workers.

    The truth is the records' own unless an annotation file is given.
    """
    results, image_ids, drawings = detect_records(detector, info, pictures, crew)
    entries = crew.gather((image_ids, results))
    if not crew.chief:
        return None
    results, image_ids = join(entries)
    truth = coco_from_records(info) if annotations is None else annotations
    metrics = evaluate_results(truth, results, info.category_ids, image_ids, detector.kinds)
    return metrics, results, drawings


def draw_row(batch, result, row, class_names):
    """Truth beside prediction, for TensorBoard: a row of a Batch, at its resized size."""
    height, width = batch.sizes[row].numpy().astype(int)
    image = batch.images[row].numpy()[:height, :width]
    valid = batch.truth.valid[row].numpy()
    boxes, classes = batch.truth.boxes[row].numpy()[valid], batch.truth.classes[row].numpy()[valid]
    scale = batch.sizes[row].numpy() / batch.original_sizes[row].numpy()
    truth = draw(image, boxes, classes, class_names)
    prediction = draw(
        image, result.boxes * np.tile(scale, 2), result.classes, class_names, result.scores, None, PICTURE_THRESHOLD
    )
    return side_by_side(truth, prediction)


def load_fitting(experiment, folder, remedy=None):
    """The DatasetInfo of a folder whose classes are the configuration's. `remedy`: as of Experiment.check_classes."""
    info = load_info(folder)
    experiment.check_classes(info.categories, folder, remedy)
    return info
