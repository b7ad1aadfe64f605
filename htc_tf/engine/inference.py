"""A trained model at work: restore it from a run, detect, evaluate a folder of records.

Comes after training; the commands eval, predict and export, and training's own evaluations, start here.
"""

import numpy as np
import tensorflow as tf

from htc_tf.data.datasets import coco_from_records, load_info
from htc_tf.data.input import named_errors
from htc_tf.data.resize import choose_shape, pad_to, resize_to_fit
from htc_tf.engine.checkpoint import restore_weights
from htc_tf.engine.evaluation.evaluator import evaluate_results
from htc_tf.engine.evaluation.results import coco_results, image_results, stream_results
from htc_tf.engine.prediction.visualize import draw, side_by_side
from htc_tf.engine.training.monitor import progress
from htc_tf.errors import UserError
from htc_tf.structures import Detections

PICTURES = 8
PICTURE_THRESHOLD = 0.3


def build_variables(model, divisor=32):
    """Runs the model once on nothing, so that all its variables exist before a checkpoint is restored."""
    side = 2 * divisor
    model(tf.zeros([1, side, side, 3], tf.uint8), tf.constant([[side, side]], tf.float32))


def restore(experiment, run, seed=0):
    """-> a Detector with the newest weights of a Run, averaged where its configuration says `ema_decay`.

    Raises:
        UserError: there is no checkpoint, or it does not fit the configuration.
    """
    experiment.check_classes(run.read_categories(), run.folder)
    experiment.prepare_runtime(seed)
    model = experiment.build_model()
    build_variables(model)
    if restore_weights(run, model, averaged=experiment.ema_decay is not None) is None:
        raise UserError(f"{run.checkpoints} holds no checkpoint: train first, or name another --checkpoint")
    return Detector(model, experiment)


class Interrupted(Exception):
    """Detection was told to end before its last image."""


class Detector:
    """Images in, detections out: the model, compiled once per padded shape."""

    def __init__(self, model, experiment):
        self.model, self.input = model, experiment.eval_input
        self.kinds = ("bbox", "segm") if model.masks else ("bbox",)
        self._detect = tf.function(
            lambda images, sizes: model(images, sizes), jit_compile=experiment.xla, autograph=False
        )

    def detect(self, images, sizes):
        """images [B, H, W, 3] uint8, sizes [B, 2] -> Detections as NumPy arrays, in pixels of the padded input."""
        return Detections(*(None if x is None else x.numpy() for x in self._detect(images, sizes)))

    def detect_image(self, image):
        """image [H, W, 3] uint8, of any size -> its ImageResult, in its own pixels."""
        images, sizes = self.prepare(image)
        return image_results(self.detect(images, sizes), sizes, np.array([image.shape[:2]]))[0]

    def prepare(self, image):
        """image [H, W, 3] uint8, of any size -> what `detect` takes: images [1, H', W', 3], sizes [1, 2]."""
        resized, size = resize_to_fit(tf.constant(image), self.input.min_side, self.input.max_side)
        height, width = self.input.shapes[choose_shape(resized.shape[:2], self.input.shapes)]
        return pad_to(resized, height, width)[tf.newaxis], size[tf.newaxis]


def detect_records(detector, info, pictures=0, stop=None):
    """Detects in a whole folder of records.

    Args:
        detector: a Detector.
        info: the folder's DatasetInfo.
        pictures: how many to draw, truth beside prediction.
        stop: true when it is to end early, with an Interrupted.
    Returns:
        (results in COCO's format, ids of the images, the drawings)
    """
    results, image_ids, drawings = [], [], []
    dataset = detector.input.dataset(info.folder, seed=0)
    with progress(total=info.images, unit="img", desc="detect") as bar, named_errors(info.folder):
        detected = ((batch, detector.detect(batch.images, batch.sizes)) for batch in dataset)
        for batch, found in stream_results(detected):
            if stop:
                raise Interrupted
            ids = batch.image_ids.numpy().tolist()
            results += coco_results(found, ids, info.category_ids)
            real = [row for row, image_id in enumerate(ids) if image_id >= 0]
            image_ids += [ids[row] for row in real]
            drawings += [draw_row(batch, found[row], row, info.class_names) for row in real[: pictures - len(drawings)]]
            bar.update(len(real))
    return results, image_ids, drawings


def evaluate_records(detector, info, annotations=None, pictures=0, stop=None):
    """-> (metrics, results, pictures). The truth is the records' own unless an annotation file is given."""
    results, image_ids, drawings = detect_records(detector, info, pictures, stop)
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


def load_fitting(experiment, folder):
    """The DatasetInfo of a folder whose classes are the configuration's."""
    info = load_info(folder)
    experiment.check_classes(info.categories, folder)
    return info
