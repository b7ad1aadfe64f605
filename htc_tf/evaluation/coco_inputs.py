"""Inputs of a COCO evaluation: ground truth and results, selected and validated.

pycocotools has traps that are avoided here: it never matches an annotation with id 0, crashes on results of unknown
images, sorts NaN scores anywhere, exhausts the memory on huge polygons, and does not return on run lengths that do not
fill their image.
"""

import math
from collections import Counter
from typing import NamedTuple

from pycocotools import mask as coco_mask

from htc_tf.data.annotations import MAX_OUTLINE, lacks_box, outline_length
from htc_tf.errors import UserError
from htc_tf.evaluation.coco_files import BadResult, is_box, is_number, read_ground_truth
from htc_tf.ops.rle_decoding import is_valid_rle

FIELDS = {"bbox": "bbox", "segm": "segmentation"}


class EvalInputs(NamedTuple):
    """Ground truth and results of the selected images and categories."""

    images: dict  # {id: image}, by ascending id
    categories: dict  # {id: category}, by class index
    names: list  # the categories' names, with the id if two share one
    annotations: dict  # {kind: annotations that pycocotools can process, with ids from 1}
    results: list
    notes: list  # sentences about left-out data


def prepare_inputs(ground_truth, results, category_ids=None, image_ids=None, kinds=("bbox", "segm")):
    """Returns the EvalInputs; arguments and errors as in `evaluation.evaluator.evaluate_results`."""
    if not kinds or not set(kinds) <= FIELDS.keys():
        raise UserError(f"kinds={kinds!r}: give a list of one or both of {', '.join(FIELDS)}")
    ground_truth, notes = read_ground_truth(ground_truth), []
    # By ascending id, as COCO orders detections of equal scores.
    images = dict(sorted(_select(ground_truth["images"], image_ids, "image").items()))
    categories = _select(ground_truth["categories"], category_ids, "category")
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    known = [{entry["id"] for entry in ground_truth[key]} for key in ("images", "categories")]
    orphans = sum(
        a["image_id"] not in known[0] or a["category_id"] not in known[1] for a in ground_truth["annotations"]
    )
    if orphans:
        notes.append(f"{orphans} annotations of images or categories that the annotations do not list were left out.")
    _check_results(results, ground_truth, kinds)
    selected = [r for r in results if r["image_id"] in images and r["category_id"] in categories]
    if len(selected) < len(results):
        notes.append(f"{len(results) - len(selected)} results of images or categories not evaluated were left out.")
    if "bbox" in kinds:  # pycocotools takes neither tuples nor arrays
        selected = [result | {"bbox": [float(value) for value in result["bbox"]]} for result in selected]
    if "segm" in kinds:
        selected = [_compressed(result) for result in selected]
    usable, left_out = _usable_annotations(annotations, images, kinds)
    return EvalInputs(images, categories, _names(categories), usable, selected, notes + left_out)


def _usable_annotations(annotations, images, kinds):
    """Returns ({kind: copies of the annotations that pycocotools can process}, notes on the others)."""
    boxes, masks, maskless = [], [], 0
    for annotation in annotations:
        image = images[annotation["image_id"]]
        limit = 4 * max(image["height"], image["width"])
        mask = annotation.get("segmentation")
        drawable = _drawable(mask, image, limit)
        box = annotation.get("bbox")
        if lacks_box(annotation):
            box = _box_of(mask, image) if drawable else None
        if box is None or not all(math.isfinite(v) and abs(v) <= limit for v in box) or min(box[2:]) < 0:
            continue
        x, y, width, height = box
        area = annotation.get("area")
        if not (is_number(area) and 0 < area < math.inf):
            area = coco_mask.area(run_lengths(mask, image)) if drawable else width * height
        entry = annotation | {
            "id": len(boxes) + 1,
            "bbox": list(box),
            "area": float(area),
            "iscrowd": int(annotation.get("iscrowd") in (1, True)),
        }
        boxes.append(entry)
        if not drawable:
            maskless += 1
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            entry = entry | {"segmentation": [corners], "iscrowd": 1}
        masks.append(entry)
    notes = []
    if boxless := len(annotations) - len(boxes):
        notes.append(
            f"{boxless} annotations without a usable box (none, negative, not finite, or far outside) were left out."
        )
    if maskless and "segm" in kinds:
        notes.append(f"segm: {maskless} annotations without a usable mask were taken as regions to ignore.")
    return {"bbox": boxes, "segm": masks}, notes


def _drawable(segmentation, image, limit):
    """Returns True for run lengths that fill the image and for polygons of at most `limit` pixels, in any direction."""
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
    """Returns the box [x, y, width, height] of a drawable mask, as the preparation of data computes it.

    Polygons too thin to cover a pixel give the extent of their points.
    """
    box = coco_mask.toBbox(run_lengths(segmentation, image)).tolist()
    if min(box[2:]) == 0 and isinstance(segmentation, list):
        xs, ys = ([v for polygon in segmentation for v in polygon[start::2]] for start in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return box


def run_lengths(segmentation, image):
    """Returns a drawable mask, polygons or run lengths, as run lengths with COCO's string."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    runs = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return coco_mask.merge(runs) if isinstance(runs, list) else runs


def _select(entries, ids, noun):
    """Returns {id: entry} of the entries with the given ids, in their order; None for all, sorted by id."""
    known = {entry["id"]: entry for entry in entries}
    ids = sorted(known) if ids is None else list(dict.fromkeys(int(i) for i in ids))
    if unknown := [i for i in ids if i not in known]:
        raise UserError(f"{noun} id {unknown[0]} is not in the annotations ({len(unknown)} such ids)")
    if not ids:
        raise UserError(f"the annotations have no {noun} to evaluate")
    return {i: known[i] for i in ids}


def _names(categories):
    """Returns the categories' names, by class index, each unique: those that several share get their ids."""
    names = [str(category["name"]) for category in categories.values()]
    while len(set(names)) < len(names):  # again, if another category has such a name, with an id in it
        counts = Counter(names)
        names = [f"{n} ({i})" if counts[n] > 1 else n for i, n in zip(categories, names, strict=True)]
    return names


def _check_results(results, ground_truth, kinds):
    sizes = {image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    _check_known(results, "image_id", sizes, "image", "evaluate with the annotations of the images detected in")
    advice = "COCO's results hold the annotations' category ids, not places in the list of classes"
    _check_known(results, "category_id", categories, "category", advice)
    for index, result in enumerate(results):
        if missing := {"score", *(FIELDS[kind] for kind in kinds)} - result.keys():
            raise BadResult(
                f"result {index} has no '{sorted(missing)[0]}'; it is needed to evaluate {', '.join(kinds)}"
            )
        where = f"result {index} (image {result['image_id']})"
        if not is_number(result["score"]):
            raise BadResult(f"{where}: its score is {result['score']!r:.80}, not a number")
        if not math.isfinite(result["score"]):
            raise BadResult(f"{where}: its score is {result['score']}, as of a model whose weights are not finite")
        if "bbox" in kinds:
            box = result["bbox"]
            if not (is_box(box) and all(map(math.isfinite, box))):
                raise BadResult(f"{where}: its box {box!r:.80} is not four finite numbers x, y, width, height")
            if min(box[2:]) < 0:
                raise BadResult(f"{where}: its box {box!r:.80}, x, y, width, height, has a negative width or height")
        if "segm" in kinds:
            mask, size = result["segmentation"], sizes[result["image_id"]]
            if not is_valid_rle(mask, *size):
                raise BadResult(f"{where}: its mask must be run lengths that fill the image's height and width, {size}")


def _compressed(result):
    """Returns a result whose valid run lengths, if they are a list, are COCO's string, as pycocotools needs them."""
    mask = result["segmentation"]
    if not isinstance(mask["counts"], list):
        return result
    return result | {"segmentation": coco_mask.frPyObjects(mask, *mask["size"])}


def _check_known(results, field, known, noun, advice):
    """Raises BadResult unless every result's image or category is in the annotations."""
    unknown = []
    for index, result in enumerate(results):
        if field not in result:
            raise BadResult(f"result {index} has no '{field}'; give results in COCO's format")
        try:
            if result[field] not in known:
                unknown.append(index)
        except TypeError:  # unhashable, such as a list
            unknown.append(index)
    if unknown:
        raise BadResult(
            f"result {unknown[0]}: the annotations have no {noun} {results[unknown[0]][field]!r:.80} "
            f"({len(unknown)} of {len(results)} results): {advice}"
        )
