"""Error analysis: a type for each wrong detection and missed object, the AP50 each type costs, and a confusion matrix.

The error types and their costs are TIDE's (Bolya et al., arXiv:2008.08115). Detections are matched with objects as COCO
matches them, so AP50 equals COCO's.
"""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from htc_tf.evaluation.coco_inputs import FIELDS, run_lengths

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which an object is detected; IoU below which a detection has no object
WRONG, IGNORED = -1, -2  # instead of the index of a detection's object
LIMIT = 100  # detections per image and class, COCO's
RECALLS = np.linspace(0, 1, 101)
ERROR_TYPES = {
    "class": "wrong class, located well",
    "localization": "right class, located badly",
    "both": "wrong class, located badly",
    "duplicate": "object already detected",
    "background": "no object there",
    "missed": "object without detection",
}


class Pairs(NamedTuple):
    """The d detections of an image, best first, and its g objects."""

    scores: np.ndarray  # [d]
    classes: np.ndarray  # [d], class indices
    gt_classes: np.ndarray  # [g], the objects' class indices
    crowd: np.ndarray  # [g] bool
    ious: np.ndarray  # [d, g]; for a crowd the share of the detection inside it
    annotations: list  # [g], the objects' entries in the annotation file


class ErrorAnalysis(NamedTuple):
    """Errors by type, and their cost in AP50."""

    ap50: float  # -1 without objects
    counts: dict  # {error type: number of errors}
    ap_cost: dict  # {error type: rise of AP50 if its errors were corrected}


def pair_images(inputs, kind):
    """Returns a list of Pairs, one for each image of EvalInputs. `kind` is "bbox" or "segm"."""
    index = {category_id: i for i, category_id in enumerate(inputs.categories)}
    found, there = ({image_id: [] for image_id in inputs.images} for _ in range(2))
    for result in inputs.results:
        found[result["image_id"]].append(result)
    for annotation in inputs.annotations[kind]:
        there[annotation["image_id"]].append(annotation)
    pairs = []
    for image_id, image in inputs.images.items():
        results, annotations = _best(found[image_id]), there[image_id]
        crowd = [int(a["iscrowd"]) for a in annotations]
        objects = [_shape(a[FIELDS[kind]], image, kind) for a in annotations]
        ious = np.zeros((len(results), len(objects)))
        if results and objects:
            ious = coco_mask.iou([_shape(r[FIELDS[kind]], image, kind) for r in results], objects, crowd)
        pairs.append(
            Pairs(
                np.array([r["score"] for r in results], float),
                np.array([index[r["category_id"]] for r in results], int),
                np.array([index[a["category_id"]] for a in annotations], int),
                np.array(crowd, bool),
                np.asarray(ious).reshape(len(results), len(objects)),
                annotations,
            )
        )
    return pairs


def analyze_errors(pairs, num_classes):
    """Returns the ErrorAnalysis of the Pairs of all images."""
    # Detections as (-score, image, place, class, correct). Errors by type as (-score, image, place, class, object);
    # class is None if a correction would not detect a free object.
    rows, errors, missed = [], {error_type: [] for error_type in ERROR_TYPES}, np.zeros(num_classes, int)
    objects = np.zeros(num_classes, int)
    for image, pair in enumerate(pairs):
        objects += np.bincount(pair.gt_classes[~pair.crowd], minlength=num_classes)
        matches = _match(pair)
        used = set(matches[matches >= 0].tolist())
        explained = set()
        for place, match in enumerate(matches):
            if match == IGNORED:
                continue
            at = (-pair.scores[place], image, place)
            rows.append((*at, pair.classes[place], match >= 0))
            if match < 0:
                error_type, nearest = _error_type(pair, place)
                fixable = nearest if error_type in ("class", "localization") else None
                if fixable is not None:
                    explained.add(nearest)
                free = fixable is not None and nearest not in used
                errors[error_type].append((*at, pair.gt_classes[nearest] if free else None, nearest))
        for number, (label, crowd) in enumerate(zip(pair.gt_classes, pair.crowd, strict=True)):
            if not crowd and number not in used | explained:
                missed[label] += 1
    ap50 = _mean_ap(rows, objects)
    counts = {error_type: len(found) for error_type, found in errors.items()} | {"missed": int(missed.sum())}
    ap_cost = {error_type: _mean_ap(_without(rows, found), objects) - ap50 for error_type, found in errors.items()}
    ap_cost["missed"] = _mean_ap(rows, objects - missed, objects > 0) - ap50
    return ErrorAnalysis(ap50, counts, ap_cost)


def count_confusions(pairs, num_classes, threshold=0.5):
    """Returns the confusion matrix [K + 1, K + 1] int, objects by rows and detections by columns.

    A detection with a score of at least `threshold` is paired with the free object of the highest IoU, at least 0.5,
    of any class. The last column counts unpaired objects and the last row unpaired detections, except those inside a
    crowd of their class.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for pair in pairs:
        free = ~pair.crowd
        for place in np.flatnonzero(pair.scores >= threshold):
            ious, label = pair.ious[place], pair.classes[place]
            nearest = _nearest(ious, free)
            if nearest is not None:
                free[nearest] = False
                matrix[pair.gt_classes[nearest], label] += 1
            elif not (ious[pair.crowd & (pair.gt_classes == label)] >= FOREGROUND).any():
                matrix[num_classes, label] += 1
        for label in pair.gt_classes[free]:
            matrix[label, num_classes] += 1
    return matrix


def _match(pair):
    """Returns COCO's greedy matching at IoU 0.5: for each detection its object's index, WRONG or IGNORED."""
    matches = np.full(len(pair.scores), WRONG)
    free = ~pair.crowd
    for place, label in enumerate(pair.classes):
        same = pair.gt_classes == label
        nearest = _nearest(pair.ious[place], same & free)
        if nearest is not None:
            matches[place], free[nearest] = nearest, False
        elif (pair.ious[place, same & pair.crowd] >= FOREGROUND).any():
            matches[place] = IGNORED
    return matches


def _nearest(ious, candidates):
    """Returns the candidate of the highest IoU, the last of equals as in COCO; None below 0.5."""
    ious = np.where(candidates, ious, -1.0)
    if not len(ious) or ious.max() < FOREGROUND:
        return None
    return len(ious) - 1 - int(np.argmax(ious[::-1]))


def _error_type(pair, place):
    """Returns TIDE's type of a wrong detection, and the index of the object concerned or None."""
    ious = np.where(pair.crowd, 0.0, pair.ious[place])
    same = pair.gt_classes == pair.classes[place]
    right, wrong = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
    if not len(ious) or ious.max() < BACKGROUND:
        return "background", None
    if BACKGROUND <= right.max() < FOREGROUND:
        return "localization", int(right.argmax())
    if wrong.max() >= FOREGROUND:
        return "class", int(wrong.argmax())
    if right.max() >= FOREGROUND:
        return "duplicate", int(right.argmax())
    return "both", int(wrong.argmax())


def _without(rows, errors):
    """Returns the rows with errors corrected: the best error of a free object detects it, the others are removed."""
    labels, taken = {}, set()
    for score, image, place, label, nearest in sorted(errors, key=lambda error: error[:3]):
        labels[image, place] = None
        if label is not None and (image, nearest) not in taken:
            taken.add((image, nearest))
            labels[image, place] = (score, image, place, label, True)
    corrected = (labels.get(row[1:3], row) for row in rows)
    return [row for row in corrected if row is not None]


def _mean_ap(rows, objects, classes=None):
    """Returns AP at 101 recalls, the mean over the classes with objects; -1 without any.

    A class whose objects were all missed, and so removed, has AP 1 without wrong detections and 0 otherwise.
    """
    classes = objects > 0 if classes is None else classes
    if not classes.any():
        return -1.0
    by_class = [[] for _ in objects]
    for *at, label, right in sorted(rows, key=lambda row: row[:3]):
        del at
        by_class[label].append(right)
    return float(np.mean([_ap(np.array(by_class[k], bool), objects[k]) for k in np.flatnonzero(classes)]))


def _ap(right, objects):
    if objects == 0:
        return float(len(right) == 0)
    found = np.cumsum(right)
    recall, precision = found / objects, found / (found + np.cumsum(~right) + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _best(results):
    """Returns results sorted by score, at most LIMIT of each class, as COCO evaluates them."""
    kept, seen = [], {}
    for result in sorted(results, key=lambda r: -r["score"]):
        number = seen[result["category_id"]] = seen.get(result["category_id"], 0) + 1
        if number <= LIMIT:
            kept.append(result)
    return kept


def _shape(shape, image, kind):
    """Returns a box or run lengths in the form of pycocotools' IoU."""
    return shape if kind == "bbox" else run_lengths(shape, image)
