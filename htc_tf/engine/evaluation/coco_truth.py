"""What COCO's evaluation is given: a truth and results, read, checked and made safe to count.

Before: an annotation file or a folder of records, and `evaluation.results`. After: `evaluation.evaluator` counts,
`evaluation.error_split` looks for what went wrong.

Traps that are shut here: an annotation with id 0 never counts as found; results of unknown images crash; NaN scores are
sorted anywhere; wild polygons exhaust the memory.
"""

import json
import math
from typing import NamedTuple

import numpy as np

from htc_tf.errors import UserError

FIELDS = {"bbox": "bbox", "segm": "segmentation"}
REQUIRED = {
    "images": {"id", "height", "width"},
    "categories": {"id", "name"},
    "annotations": {"image_id", "category_id", "bbox"},
}


class Case(NamedTuple):
    """What is to be compared, of the images and categories chosen alone."""

    images: dict  # {id: image}
    categories: dict  # {id: category}, in the model's order of classes
    names: list  # of the categories, told apart by id where two share one
    annotations: list
    results: list
    notes: list  # sentences that a reader of the figures must know


def make_case(truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm")):
    """Chooses and checks; arguments and errors as of `evaluation.evaluator.evaluate_results`. Returns a Case."""
    truth = read_truth(truth)
    images = _select(truth["images"], image_ids, "image")
    categories = _select(truth["categories"], category_ids, "category")
    annotations = [a for a in truth["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    _check_results(results, truth, kinds)
    kept = [r for r in results if r["image_id"] in images and r["category_id"] in categories]
    notes = []
    if len(kept) < len(results):
        notes.append(f"{len(results) - len(kept)} results of images or categories not evaluated were left out.")
    return Case(images, categories, _names(categories), annotations, kept, notes)


def read_json(path, what):
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read; told to give `what`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give {what}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); give {what}") from error


def read_truth(truth):
    """COCO's instances dictionary, from its JSON file if it is a path, with all the fields that are needed."""
    name = "the truth" if isinstance(truth, dict) else str(truth)
    if not isinstance(truth, dict):
        truth = read_json(truth, "COCO's instances JSON")
    for key, fields in REQUIRED.items():
        if not isinstance(truth, dict) or not isinstance(truth.get(key), list):
            raise UserError(f"{name}: has no list '{key}'; give COCO's instances JSON")
        for index, entry in enumerate(truth[key]):
            if missing := fields - entry.keys():
                raise UserError(f"{name}: {key}[{index}] has no '{min(missing)}'; give COCO's instances JSON")
    return truth


def read_results(path):
    """COCO's results from a JSON file: a list of dicts, as `evaluation.results.coco_results` gives them."""
    results = read_json(path, "results in COCO's format")
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise UserError(f"{path}: is no list of results; give results in COCO's format")
    return results


def usable_annotations(case, kind, notes):
    """The annotations as pycocotools may have them: fresh copies, ids from 1, what would crash it set aside.

    Args:
        case: Case.
        kind: "bbox" or "segm".
        notes: list that is told what was set aside.
    """
    usable, boxless, maskless = [], 0, 0
    for annotation in case.annotations:
        image = case.images[annotation["image_id"]]
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
