"""Detects and evaluates a folder of records, on all replicas and workers.

Each replica takes whole batches of `eval/Input.batch_size` images. Which images make a batch does not depend on the
number of replicas, and so no figure does.
"""

import copy

import numpy as np

from htc_tf.data.datasets import coco_from_records
from htc_tf.data.input import named_errors
from htc_tf.evaluation.eval_workers import ALONE
from htc_tf.evaluation.evaluator import evaluate_results
from htc_tf.inference.results import coco_results, stream_results
from htc_tf.progress import progress_bar
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw, side_by_side

PICTURES = 8
PICTURE_THRESHOLD = 0.3


class Interrupted(Exception):
    """Detection was told to end before its last image."""


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
        for batches in read_batches(detector, info.folder, done, crew):
            if crew.stopped():
                raise Interrupted
            yield from zip(batches, detector.detect_each(batches), strict=True)

    rows = detector.input.batch_size * detector.replicas
    total = -(-info.images // (crew.workers * rows)) * rows  # this worker's, what fills up its last batches included
    with progress_bar(total=min(total, info.images), unit="img", desc="detect") as bar, named_errors(info.folder):
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


def read_batches(detector, folder, start_step=0, crew=ALONE):
    """Steps through a folder of records: lists of Batches, one for each replica here, all of one padded shape."""
    replicas = detector.replicas * crew.workers
    joint = copy.copy(detector.input)
    joint.batch_size *= replicas
    parts = joint.dataset(folder, 0, start_step, crew.worker, crew.workers, replicas).prefetch(detector.replicas)
    return zip(*[iter(parts)] * detector.replicas, strict=True)


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
