"""COCO's figures for results: box and mask average precision and recall, over all classes, for each, and at each IoU.

Before: `inference.results` has written what the model found in the form that COCO wants, and `evaluation.coco_inputs`
checks it. After: `eval` writes the figures to metrics.json, `evaluation.report` makes tables and pictures of them;
training writes them to TensorBoard.

pycocotools does the counting, or faster-coco-eval, whose tables differ by rounding at most. A trap is shut here:
results that carry a box would be sized by the box in the mask evaluation.
"""

import contextlib
import importlib
import io
from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError
from htc_tf.evaluation.coco_inputs import FIELDS, EvalInputs, make_case, usable_annotations

# COCO's twelve: precision or recall; the IoU, or None for the mean over all ten; the sizes; detections an image.
FIGURES = {
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
UNDEFINED = -1.0  # COCO's answer where there is no truth to find

# (module, class of the data, class of the evaluation)
BACKENDS = {
    "pycocotools": (("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
    "faster-coco-eval": (("faster_coco_eval", "COCO"), ("faster_coco_eval", "COCOeval_faster")),
}


class Evaluation(NamedTuple):
    """The figures, and what they were made of."""

    metrics: dict  # as `evaluate_results` returns them
    tables: dict  # {kind: {"precision": [10 IoUs, 101 recalls, K, 4 sizes, 3 limits], "recall": without the recalls}}
    case: EvalInputs


def evaluate_results(truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm"), backend="pycocotools"):
    """Compares results with the truth as COCO does.

    Args:
        truth: COCO's instances dictionary, or the path of its JSON file. It is not changed.
        results: dicts in COCO's results format, as `inference.results.coco_results` gives them. A mask is counted by
            its own area, whatever box comes with it.
        category_ids: the categories to evaluate, in the model's order of classes; all of the truth's if None.
        image_ids: the images to evaluate; all of the truth's if None. Results of other images are left out and noted.
        kinds: "bbox", "segm" or both. A model without masks is evaluated with ("bbox",).
        backend: "pycocotools" or "faster-coco-eval".

    Returns:
        A dict that json can write: "bbox/AP", "bbox/AP50", ... "segm/ARl" (fractions; -1 where there is no truth of
        that size); "by_iou": {"bbox": {"0.50": AP, ...}, ...}; "per_class": {name: {"objects": how many there are,
        "bbox/AP": ..., "segm/ARl": ...}}; "images"; and "notes": what a reader of the figures must know, as sentences.

    Raises:
        UserError: the truth or the results cannot be evaluated: a file that is not COCO's, an unknown category or
            image, a score that is not finite, a mask of another size than its image; or no such backend.
    """
    return evaluate(truth, results, category_ids, image_ids, kinds, backend).metrics


def evaluate(truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm"), backend="pycocotools"):
    """`evaluate_results`, with what the figures were made of: -> Evaluation."""
    counting = _load(backend)
    case = make_case(truth, results, category_ids, image_ids, kinds)
    notes = case.notes
    found = [a["category_id"] for a in case.annotations if not a.get("iscrowd")]
    metrics, by_iou, tables = {}, {}, {}
    per_class = {name: {"objects": found.count(i)} for i, name in zip(case.categories, case.names, strict=True)}
    for kind in kinds:
        table = tables[kind] = _count(case, usable_annotations(case, kind, notes), kind, counting)
        for name, figure in FIGURES.items():
            metrics[f"{kind}/{name}"] = _mean(table, *figure)
            for index, row in enumerate(per_class.values()):
                row[f"{kind}/{name}"] = _mean(table, *figure, classes=[index])
        by_iou[kind] = {f"{iou:.2f}": _mean(table, "precision", iou, "all", 100) for iou in IOUS}
    missing = len(case.categories) - len(set(found))
    if not found:
        notes.append(
            f"The {len(case.images)} images hold no object to find (crowd aside): every figure is undefined, -1."
        )
    elif missing:
        notes.append(f"{missing} of {len(case.categories)} classes have no object here; no mean has them.")
    metrics |= {"by_iou": by_iou, "per_class": per_class, "images": len(case.images), "notes": notes}
    return Evaluation(metrics, tables, case)


def _mean(table, what, iou, size, limit, classes=slice(None)):
    """COCO's summary of a table: the mean over what is defined."""
    values = table[what] if iou is None else table[what][[IOUS.index(iou)]]
    values = values[..., classes, SIZES.index(size), LIMITS.index(limit)]
    values = values[values > UNDEFINED]
    return float(np.mean(values)) if len(values) else UNDEFINED


def _load(backend):
    if backend not in BACKENDS:
        raise UserError(f"there is no evaluation backend {backend!r}; choose {' or '.join(BACKENDS)}")
    try:
        return [getattr(importlib.import_module(module), name) for module, name in BACKENDS[backend]]
    except ImportError as error:
        raise UserError(f"{backend} is not installed; install htc_tf with its extra [fast]") from error


def _count(case, annotations, kind, counting):
    """Runs the backend, silenced. Each result carries one kind's field only, since a box would size the mask."""
    make_data, make_evaluation = counting
    dataset = {"images": list(case.images.values()), "categories": list(case.categories.values())}
    fields = ("image_id", "category_id", "score", FIELDS[kind])
    results = [{field: result[field] for field in fields} for result in case.results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = make_data(), make_data()
        truth.dataset = dataset | {"annotations": annotations}
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:
            found.dataset = dataset | {"annotations": []}
            found.createIndex()
        evaluation = make_evaluation(truth, found, kind)
        evaluation.params.imgIds = list(case.images)
        evaluation.params.catIds = list(case.categories)
        evaluation.evaluate()
        evaluation.accumulate()
    # The tables have the categories by id, unlike ours; sizes and limits are in the order of SIZES and LIMITS.
    order = [sorted(case.categories).index(i) for i in case.categories]
    return {
        "precision": np.asarray(evaluation.eval["precision"])[:, :, order],
        "recall": np.asarray(evaluation.eval["recall"])[:, order],
    }
