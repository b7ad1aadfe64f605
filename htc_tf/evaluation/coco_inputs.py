"""What COCO's evaluation is given: a truth and results, checked and made safe to count.

Before: `evaluation.coco_files` read an annotation file and results, or the records' own truth and `inference.results`.
After: `evaluation.evaluator` counts, `evaluation.error_analysis` looks for what went wrong.

Traps that are shut here: an annotation with id 0 never counts as found; results of unknown images crash; NaN scores are
sorted anywhere; wild polygons exhaust the memory; run lengths that do not fill their image never end.
"""

import math
from typing import NamedTuple

from pycocotools import mask as coco_mask

from htc_tf.data.annotations import MAX_OUTLINE, outline_length
from htc_tf.errors import UserError
from htc_tf.evaluation.coco_files import is_box, is_number, read_truth
from htc_tf.ops.rle_decoding import is_valid_rle

FIELDS = {"bbox": "bbox", "segm": "segmentation"}


class EvalInputs(NamedTuple):
    """What is to be compared, of the images and categories chosen alone."""

    images: dict  # {id: image}
    categories: dict  # {id: category}, in the model's order of classes
    names: list  # of the categories, told apart by id where two share one
    annotations: list
    results: list
    notes: list  # sentences that a reader of the figures must know


def make_case(truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm")):
    """Chooses and checks; arguments and errors as of `evaluation.evaluator.evaluate_results`. Returns a Case."""
    truth, notes = read_truth(truth), []
    images = _select(truth["images"], image_ids, "image")
    categories = _select(truth["categories"], category_ids, "category")
    annotations = [a for a in truth["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    known = [{entry["id"] for entry in truth[key]} for key in ("images", "categories")]
    lost = sum(a["image_id"] not in known[0] or a["category_id"] not in known[1] for a in truth["annotations"])
    if lost:
        notes.append(f"{lost} annotations of images or categories that the annotations do not list were left out.")
    _check_results(results, truth, kinds)
    kept = [r for r in results if r["image_id"] in images and r["category_id"] in categories]
    if len(kept) < len(results):
        notes.append(f"{len(results) - len(kept)} results of images or categories not evaluated were left out.")
    return EvalInputs(images, categories, _names(categories), annotations, kept, notes)


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
        mask = annotation.get("segmentation")
        drawable = _drawable(mask, image, limit)
        box = annotation.get("bbox")
        if box is None and drawable:
            box = _box_of(mask, image)
        if box is None or not all(math.isfinite(v) and abs(v) <= limit for v in box) or min(box[2:]) < 0:
            boxless += 1
            continue
        x, y, width, height = box
        area, crowd = annotation.get("area"), annotation.get("iscrowd")
        entry = annotation | {
            "id": len(usable) + 1,
            "bbox": list(box),
            "area": area if is_number(area) and math.isfinite(area) else width * height,
            "iscrowd": int(crowd in (1, True)),
        }
        if kind == "segm" and not drawable:
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
    """Whether pycocotools may draw it: run lengths that fill the image, or polygons near it."""
    if isinstance(segmentation, dict):
        return is_valid_rle(segmentation, image["height"], image["width"])
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)
        and all(is_number(v) and abs(v) <= limit for polygon in segmentation for v in polygon)
        and sum(map(outline_length, segmentation)) <= MAX_OUTLINE
    )


def _box_of(segmentation, image):
    """The box of a mask that can be drawn: [x, y, width, height]."""
    if isinstance(segmentation, list):
        xs, ys = ([v for polygon in segmentation for v in polygon[start::2]] for start in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return coco_mask.toBbox(segmentation).tolist()


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
    names = [str(category["name"]) for category in categories.values()]
    return [f"{n} ({i})" if names.count(n) > 1 else n for i, n in zip(categories, names, strict=True)]


def _check_results(results, truth, kinds):
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    _check_known(results, "image_id", sizes, "image", "evaluate with the annotations of the images detected in")
    advice = "COCO's results hold the annotations' category ids, not places in the list of classes"
    _check_known(results, "category_id", categories, "category", advice)
    for index, result in enumerate(results):
        if missing := {"score", *(FIELDS[kind] for kind in kinds)} - result.keys():
            raise UserError(
                f"result {index} has no '{sorted(missing)[0]}'; it is needed to evaluate {', '.join(kinds)}"
            )
        where = f"result {index} (image {result['image_id']})"
        if not is_number(result["score"]):
            raise UserError(f"{where}: its score is {result['score']!r:.80}, not a number")
        if not math.isfinite(result["score"]):
            raise UserError(f"{where}: its score is {result['score']}; the model's weights are probably not finite")
        if "bbox" in kinds and not (is_box(result["bbox"]) and all(map(math.isfinite, result["bbox"]))):
            raise UserError(f"{where}: its box {result['bbox']!r:.80} is not four finite numbers x, y, width, height")
        if "segm" in kinds:
            mask, size = result["segmentation"], sizes[result["image_id"]]
            if not isinstance(mask, dict) or list(mask.get("size", [])) != size:
                raise UserError(f"{where}: its mask must be run lengths of the image's height and width, {size}")


def _check_known(results, field, known, noun, advice):
    """Every result names an image, or a category, that the annotations list."""
    unknown = []
    for index, result in enumerate(results):
        if field not in result:
            raise UserError(f"result {index} has no '{field}'; give results in COCO's format")
        try:
            if result[field] not in known:
                unknown.append(index)
        except TypeError:  # a list is no id
            unknown.append(index)
    if unknown:
        raise UserError(
            f"result {unknown[0]}: the annotations have no {noun} {results[unknown[0]][field]!r:.80} "
            f"({len(unknown)} of {len(results)} results): {advice}"
        )
