"""COCO's figures for results: box and mask average precision and recall, over all classes and for each.

Before: `engine.results.coco_results` has written what the model found in the form that COCO wants. After: `eval`
writes the figures to metrics.json and prints them as a table; training writes them to TensorBoard.

pycocotools does the counting. Its traps are shut here: results that carry a box would be sized by the box in the mask
evaluation; an annotation with id 0 never counts as found; no results, or results of unknown images, crash; NaN scores
are sorted anywhere; wild polygons exhaust the memory.
"""

import contextlib
import io
import json
import math

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc_tf.errors import UserError

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FIELDS = {"bbox": "bbox", "segm": "segmentation"}
REQUIRED = {
    "images": {"id", "height", "width"},
    "categories": {"id", "name"},
    "annotations": {"image_id", "category_id", "bbox"},
}
UNDEFINED = -1.0  # COCO's answer where there is no truth to find


def evaluate_results(truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm")):
    """Compares results with the truth as COCO does.

    Args:
        truth: COCO's instances dictionary, or the path of its JSON file. It is not changed.
        results: dicts in COCO's results format, as `engine.results.coco_results` gives them. A mask is counted by its
            own area, whatever box comes with it.
        category_ids: the categories to evaluate, in the model's order of classes; all of the truth's if None.
        image_ids: the images to evaluate; all of the truth's if None. Results of other images are left out and noted.
        kinds: "bbox", "segm" or both. A model without masks is evaluated with ("bbox",).

    Returns:
        A dict that json can write: "bbox/AP", "bbox/AP50", ... "segm/ARl" (fractions; -1 where there is no truth of
        that size), "per_class": {name: {"bbox/AP": ..., "segm/AP": ...}}, and "notes": what a reader of the figures
        must know, as sentences.

    Raises:
        UserError: the truth or the results cannot be evaluated: a file that is not COCO's, an unknown category or
            image, a score that is not finite, a mask of another size than its image.
    """
    truth = _read(truth)
    images = _select(truth["images"], image_ids, "image")
    categories = _select(truth["categories"], category_ids, "category")
    chosen = [a for a in truth["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    _check_results(results, truth, kinds)
    kept = [r for r in results if r["image_id"] in images and r["category_id"] in categories]

    notes = []
    if len(kept) < len(results):
        notes.append(f"{len(results) - len(kept)} results of images or categories not evaluated were left out.")
    metrics = {}
    per_class = {name: {} for name in _names(categories)}
    for kind in kinds:
        evaluation = _count(images, categories, _usable(chosen, images, kind, notes), kept, kind)
        metrics |= {f"{kind}/{name}": float(value) for name, value in zip(FIGURES, evaluation.stats, strict=True)}
        ids = list(evaluation.params.catIds)  # sorted, unlike ours
        for category_id, row in zip(categories, per_class.values(), strict=True):
            # [IoU, recall, class, area, detections]: all areas come first, 100 detections last.
            precision = evaluation.eval["precision"][:, :, ids.index(category_id), 0, -1]
            row[f"{kind}/AP"] = float(precision.mean()) if (precision > UNDEFINED).all() else UNDEFINED
    found = {a["category_id"] for a in chosen if not a.get("iscrowd")}
    if not found:
        notes.append(f"The {len(images)} images hold no object to find (crowd aside): every figure is undefined, -1.")
    elif len(found) < len(categories):
        notes.append(
            f"{len(categories) - len(found)} of {len(categories)} classes have no object here; no mean has them."
        )
    return metrics | {"per_class": per_class, "notes": notes}


def format_table(metrics):
    """The figures of `evaluate_results` in Markdown: a row per kind, one per class, the notes. A dash is undefined."""
    kinds = [kind for kind in FIELDS if f"{kind}/AP" in metrics]
    titles = {"bbox": "box", "segm": "mask"}
    rows = [[titles[kind]] + [_figure(metrics[f"{kind}/{name}"]) for name in FIGURES] for kind in kinds]
    lines = _markdown(["", *FIGURES], rows)
    rows = [[name] + [_figure(row[f"{kind}/AP"]) for kind in kinds] for name, row in metrics["per_class"].items()]
    lines += ["", *_markdown(["class", *(f"{titles[kind]} AP" for kind in kinds)], rows)]
    if metrics["notes"]:
        lines += ["", *(f"- {note}" for note in metrics["notes"])]
    return "\n".join(lines)


def _read(truth):
    name = "the truth" if isinstance(truth, dict) else str(truth)
    if not isinstance(truth, dict):
        try:
            with open(truth, encoding="utf-8") as file:
                truth = json.load(file)
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror}); give COCO's instances JSON") from error
        except ValueError as error:
            raise UserError(f"{name}: not JSON ({error}); give COCO's instances JSON") from error
    for key, fields in REQUIRED.items():
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list):
            raise UserError(f"{name}: has no list '{key}'; give COCO's instances JSON")
        for index, entry in enumerate(truth[key]):
            if missing := fields - entry.keys():
                raise UserError(f"{name}: {key}[{index}] has no '{min(missing)}'; give COCO's instances JSON")
    return truth


def _select(entries, ids, noun):
    """{id: entry} of the entries asked for, in the order asked for, or by id."""
    known = {entry["id"]: entry for entry in entries}
    ids = sorted(known) if ids is None else list(dict.fromkeys(int(i) for i in ids))
    if unknown := [i for i in ids if i not in known]:
        raise UserError(f"{noun} id {unknown[0]} is not in the annotations ({len(unknown)} such ids)")
    if not ids:
        raise UserError(f"the annotations have no {noun} to evaluate")
    return {i: known[i] for i in ids}


def _names(categories):
    """The categories' names, told apart by id where two share one."""
    names = [category["name"] for category in categories.values()]
    return [f"{n} ({i})" if names.count(n) > 1 else n for i, n in zip(categories, names, strict=True)]


def _check_results(results, truth, kinds):
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for index, result in enumerate(results):
        if missing := {"image_id", "category_id", "score", *(FIELDS[kind] for kind in kinds)} - result.keys():
            raise UserError(
                f"result {index} has no '{sorted(missing)[0]}'; it is needed to evaluate {', '.join(kinds)}"
            )
        where = f"result {index} (image {result['image_id']})"
        if result["image_id"] not in sizes:
            raise UserError(
                f"{where}: the annotations do not know this image; evaluate with the results' own annotations"
            )
        if result["category_id"] not in categories:
            raise UserError(f"{where}: the annotations do not define category {result['category_id']}")
        if not math.isfinite(result["score"]):
            raise UserError(f"{where}: its score is {result['score']}; the model's weights are probably not finite")
        if "bbox" in kinds and not np.isfinite(result["bbox"]).all():
            raise UserError(f"{where}: its box {result['bbox']} is not finite")
        if "segm" in kinds:
            mask, size = result["segmentation"], sizes[result["image_id"]]
            if not isinstance(mask, dict) or list(mask.get("size", [])) != size:
                raise UserError(f"{where}: its mask must be run lengths of the image's height and width, {size}")


def _usable(annotations, images, kind, notes):
    """The annotations as pycocotools may have them: fresh copies, ids from 1, what would crash it set aside."""
    usable, boxless, maskless = [], 0, 0
    for annotation in annotations:
        image = images[annotation["image_id"]]
        limit = 4 * max(image["height"], image["width"])
        x, y, width, height = annotation["bbox"]
        if not all(math.isfinite(v) and abs(v) <= limit for v in annotation["bbox"]):
            boxless += 1
            continue
        entry = {"area": width * height, "iscrowd": 0} | annotation | {"id": len(usable) + 1}
        if kind == "segm" and not _drawable(entry.get("segmentation"), image, limit):
            maskless += 1
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            entry |= {"segmentation": [corners], "iscrowd": 1}
        usable.append(entry)
    if boxless:
        notes.append(f"{kind}: {boxless} annotations with a box that is not finite or far outside were left out.")
    if maskless:
        notes.append(f"{kind}: {maskless} annotations without a usable mask were taken as regions to ignore.")
    return usable


def _drawable(segmentation, image, limit):
    if isinstance(segmentation, dict):
        return list(segmentation.get("size", [])) == [image["height"], image["width"]] and "counts" in segmentation
    return bool(segmentation) and all(
        len(polygon) >= 6 and len(polygon) % 2 == 0 and all(math.isfinite(v) and abs(v) <= limit for v in polygon)
        for polygon in segmentation
    )


def _count(images, categories, annotations, results, kind):
    """Runs pycocotools, silenced. Each result carries one kind's field only, since a box would size the mask."""
    dataset = {"images": list(images.values()), "categories": list(categories.values()), "annotations": annotations}
    fields = ("image_id", "category_id", "score", FIELDS[kind])
    results = [{field: result[field] for field in fields} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = dataset
        truth.createIndex()
        if results:
            found = truth.loadRes(results)
        else:
            found.dataset = dataset | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = list(images)
        evaluation.params.catIds = list(categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _figure(value):
    return "–" if value == UNDEFINED else f"{value:.3f}"


def _markdown(head, rows):
    """A table whose columns also line up where Markdown is read as plain text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = [":" + "-" * (widths[0] - 1)] + ["-" * (width - 1) + ":" for width in widths[1:]]
    rows = [
        [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        for row in [head, *rows]
    ]
    return ["| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]]]
