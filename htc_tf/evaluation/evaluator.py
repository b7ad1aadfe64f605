"""COCO metrics: box and mask average precision and recall, over all classes, per class, and at each IoU threshold.

pycocotools computes them, or faster-coco-eval, whose tables differ by rounding at most. Results are passed without the
other kind's field: in a mask evaluation pycocotools would take a result's area from its box.
"""

import contextlib
import importlib
import io
from collections import Counter
from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError
from htc_tf.evaluation.coco_inputs import FIELDS, EvalInputs, prepare_inputs

# COCO's twelve: (precision or recall, IoU or None for the mean over all ten, object sizes, detections per image).
METRICS = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARs": ("recall", None, "small", 100),
    "ARm": ("recall", None, "medium", 100),
    "ARl": ("recall", None, "large", 100),
}
SIZES = ("all", "small", "medium", "large")
LIMITS = (1, 10, 100)
IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
UNDEFINED = -1.0  # COCO's value without ground truth

# {name: ((module, class of the data), (module, class of the evaluation))}
BACKENDS = {
    "pycocotools": (("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
    "faster-coco-eval": (("faster_coco_eval", "COCO"), ("faster_coco_eval", "COCOeval_faster")),
}


class Evaluation(NamedTuple):
    """Metrics, with the tables and inputs from which they were computed."""

    metrics: dict  # as `evaluate_results` returns it
    tables: dict  # {kind: {"precision": [10 IoUs, 101 recalls, K, 4 sizes, 3 limits], "recall": without the recalls}}
    inputs: EvalInputs


def evaluate_results(
    ground_truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm"), backend="pycocotools"
):
    """Computes COCO's metrics of results.

    Args:
        ground_truth: COCO's instances dictionary, or the path of its JSON file. It is not modified.
        results: Dicts in COCO's results format, as `inference.results.coco_results` returns them. A mask's size is its
            own area, independent of the result's box.
        category_ids: Ids of the categories to evaluate, by class index; None for all.
        image_ids: Ids of the images to evaluate; None for all. Results of other images are left out and noted.
        kinds: Sequence of "bbox", "segm" or both. A model without masks is evaluated with ("bbox",).
        backend: "pycocotools" or "faster-coco-eval".

    Returns:
        Dict for JSON: "bbox/AP", "bbox/AP50", ... "segm/ARl" (fractions; -1 without ground truth of that size);
        "by_iou": {"bbox": {"0.50": AP, ...}, ...}; "per_class": {name: {"objects": their number, "bbox/AP": ...,
        "segm/ARl": ...}}; "images": their number; and "notes": sentences about left-out data.

    Raises:
        UserError: The ground truth or the results cannot be evaluated: a file that is not COCO's, an unknown category
            or image, a score that is not finite, a mask of another size than its image; or the backend is unknown.
    """
    return evaluate(ground_truth, results, category_ids, image_ids, kinds, backend).metrics


def evaluate(ground_truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm"), backend="pycocotools"):
    """Returns the Evaluation of results; arguments and errors as in `evaluate_results`."""
    backend_classes = load_backend(backend)
    inputs = prepare_inputs(ground_truth, results, category_ids, image_ids, kinds)
    notes = list(inputs.notes)
    objects = inputs.annotations["bbox" if "bbox" in kinds else "segm"]
    found = Counter(a["category_id"] for a in objects if not a["iscrowd"])
    metrics, by_iou, tables = {}, {}, {}
    per_class = {name: {"objects": found[i]} for i, name in zip(inputs.categories, inputs.names, strict=True)}
    for kind in kinds:
        table = tables[kind] = _accumulate(inputs, kind, backend_classes)
        for name, metric in METRICS.items():
            metrics[f"{kind}/{name}"] = _mean(table, *metric)
            for index, row in enumerate(per_class.values()):
                row[f"{kind}/{name}"] = _mean(table, *metric, classes=[index])
        by_iou[kind] = {f"{iou:.2f}": _mean(table, "precision", iou, "all", 100) for iou in IOUS}
    missing = len(inputs.categories) - len(found)
    if not found:
        notes.append(
            f"The {len(inputs.images)} images hold no object to find (crowd aside): every metric is undefined, -1."
        )
    elif missing:
        notes.append(f"{missing} of {len(inputs.categories)} classes have no object here; they are in no mean.")
    metrics |= {"by_iou": by_iou, "per_class": per_class, "images": len(inputs.images), "notes": notes}
    return Evaluation(metrics, tables, inputs)


def _mean(table, what, iou, size, limit, classes=slice(None)):
    """Returns COCO's summary of a table: the mean over its defined values."""
    values = table[what] if iou is None else table[what][[IOUS.index(iou)]]
    # Precision [IoUs, 101, K, sizes, limits] -> [IoUs, 101, K]; recall likewise, without the 101 recalls.
    values = values[..., classes, SIZES.index(size), LIMITS.index(limit)]
    values = values[values > UNDEFINED]
    return float(np.mean(values)) if len(values) else UNDEFINED


def load_backend(backend):
    """Returns the classes of a backend's data and of its evaluation.

    Raises:
        UserError: The backend is unknown or not installed.
    """
    if backend not in BACKENDS:
        raise UserError(f"there is no evaluation backend {backend!r}; choose {' or '.join(BACKENDS)}")
    try:
        return [getattr(importlib.import_module(module), name) for module, name in BACKENDS[backend]]
    except ImportError as error:
        raise UserError(f"{backend} is not installed; install htc_tf with its extra [fast]") from error


def _accumulate(inputs, kind, classes):
    """Returns the backend's tables of one kind, without what it prints. Results have that kind's field only."""
    make_data, make_evaluation = classes
    dataset = {"images": list(inputs.images.values()), "categories": list(inputs.categories.values())}
    fields = ("image_id", "category_id", "score", FIELDS[kind])
    results = [{field: result[field] for field in fields} for result in inputs.results]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth, detections = make_data(), make_data()
        # Copies, as the backend writes into them.
        ground_truth.dataset = dataset | {"annotations": [dict(a) for a in inputs.annotations[kind]]}
        ground_truth.createIndex()
        if results:
            detections = ground_truth.loadRes(results)
        else:
            detections.dataset = dataset | {"annotations": []}
            detections.createIndex()
        evaluation = make_evaluation(ground_truth, detections, kind)
        evaluation.params.imgIds = list(inputs.images)
        evaluation.params.catIds = list(inputs.categories)
        evaluation.evaluate()
        evaluation.accumulate()
    # The backend's tables are sorted by category id, ours by class index. Sizes and limits are in our order already.
    order = [sorted(inputs.categories).index(i) for i in inputs.categories]
    return {
        "precision": np.asarray(evaluation.eval["precision"])[:, :, order],
        "recall": np.asarray(evaluation.eval["recall"])[:, order],
    }
