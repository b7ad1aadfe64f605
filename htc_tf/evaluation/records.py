"""Evaluation of records: a folder of them is detected on all replicas and workers, then compared with ground truth.

Each replica takes whole batches of `eval/Input.batch_size` images. Which images make a batch does not depend on the
number of replicas, and so no figure does.
"""

import copy

import numpy as np

from htc_tf.data.datasets import coco_from_records
from htc_tf.data.input import named_errors
from htc_tf.evaluation.eval_workers import SINGLE
from htc_tf.evaluation.evaluator import evaluate_results
from htc_tf.inference.results import coco_results, stream_results
from htc_tf.progress import progress_bar
from htc_tf.visualization import fonts
from htc_tf.visualization.drawing import draw, side_by_side

NUM_DRAWINGS = 8  # images drawn for TensorBoard
DRAW_THRESHOLD = 0.3  # lowest score in these drawings


class Interrupted(Exception):
    """Detection stopped before the last image, because a worker has to stop."""


def detect_records(detector, info, drawings=0, workers=SINGLE, partial=None):
    """Detects in a folder of records, or in this worker's part of it.

    Args:
        detector: Detector.
        info: DatasetInfo of the folder.
        drawings: int, images that are drawn, ground truth beside prediction.
        workers: Workers that share the records.
        partial: PartialResults, whose images are not detected again and to which the others are appended; or None.
    Returns:
        (results in COCO's format, image ids, both by ascending id; list of drawings [H, W, 3] uint8)
    Raises:
        Interrupted: A worker has to stop.
    """
    entries = [] if partial is None else list(partial.entries)
    done = len(entries) // detector.replicas
    drawn = []

    def detect_steps():
        for batches in read_batches(detector, info.folder, done, workers):
            if workers.stopped():
                raise Interrupted
            yield from zip(batches, detector.detect_each(batches), strict=True)

    # This worker's share. The exact number depends on which worker's rows fill up the last batch of each shape.
    total = -(-info.images // workers.count)
    with progress_bar(total=total, unit="img", desc="detect") as bar, named_errors(info.folder):
        bar.update(sum(len(ids) for ids, _ in entries))
        for batch, found in stream_results(detect_steps()):
            ids = batch.image_ids.numpy().tolist()
            real = [row for row, image_id in enumerate(ids) if image_id >= 0]
            entries.append(([ids[row] for row in real], coco_results(found, ids, info.category_ids)))
            if partial is not None:
                partial.write(*entries[-1])
            for row in real[: drawings - len(drawn)]:
                names = fonts.class_names(info.class_names, info.category_ids)
                drawn.append(draw_row(batch, found[row], row, names))
            bar.update(len(real))
    return *merge(entries), drawn


def read_batches(detector, folder, start_step=0, workers=SINGLE):
    """Returns an iterator of steps, tuples of a Batch for each local replica, all of one padded shape."""
    replicas = detector.replicas * workers.count
    joint = copy.copy(detector.input)
    joint.batch_size *= replicas
    parts = joint.dataset(folder, 0, start_step, workers.index, workers.count, replicas).prefetch(detector.replicas)
    return zip(*[iter(parts)] * detector.replicas, strict=True)


def merge(entries):
    """Returns (results, image ids) of entries (image ids, results), by ascending id, independent of their order."""
    results = sorted((result for _, found in entries for result in found), key=lambda result: result["image_id"])
    return results, sorted(image_id for ids, _ in entries for image_id in ids)


def evaluate_records(detector, info, annotations=None, drawings=0, workers=SINGLE):
    """Detects and evaluates a folder of records.

    Args:
        detector: Detector.
        info: DatasetInfo of the folder.
        annotations: Path of COCO's annotation file; None for the records' own ground truth.
        drawings: int, images that are drawn, ground truth beside prediction.
        workers: Workers that share the records.
    Returns:
        (metrics, results in COCO's format, list of drawings [H, W, 3] uint8) on the chief, None on other workers.
    Raises:
        Interrupted: A worker has to stop.
    """
    results, image_ids, drawn = detect_records(detector, info, drawings, workers)
    entries = workers.gather((image_ids, results))
    if not workers.chief:
        return None
    results, image_ids = merge(entries)
    ground_truth = coco_from_records(info) if annotations is None else annotations
    metrics = evaluate_results(ground_truth, results, info.category_ids, image_ids, detector.kinds)
    return metrics, results, drawn


def draw_row(batch, result, row, class_names):
    """Draws ground truth beside prediction: one row of a Batch at its resized size, [H, 2 W, 3] uint8."""
    height, width = batch.sizes[row].numpy().astype(int)
    image = batch.images[row].numpy()[:height, :width]
    valid = batch.truth.valid[row].numpy()
    boxes, classes = batch.truth.boxes[row].numpy()[valid], batch.truth.classes[row].numpy()[valid]
    scale = batch.sizes[row].numpy() / batch.original_sizes[row].numpy()
    ground_truth = draw(image, boxes, classes, class_names)
    prediction = draw(
        image, result.boxes * np.tile(scale, 2), result.classes, class_names, result.scores, None, DRAW_THRESHOLD
    )
    return side_by_side(ground_truth, prediction)
