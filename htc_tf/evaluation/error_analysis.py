"""What keeps AP50 from 1: each wrong detection and each missed object gets one reason, and each reason its price.

Before: `evaluation.coco_inputs` has checked the truth and the results. After: `evaluation.report` writes and draws the
split and the confusion matrix. The reasons and their prices are TIDE's (Bolya et al., arXiv:2008.08115); objects and
detections are paired as COCO pairs them, so that the AP50 it starts from is COCO's own.
"""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from htc_tf.evaluation.coco_inputs import FIELDS, usable_annotations

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which an object is found, and below which nothing is there
WRONG, IGNORED = -1, -2  # in place of the object that a detection finds
LIMIT = 100  # detections an image and class
RECALLS = np.linspace(0, 1, 101)
REASONS = {
    "class": "a wrong class on an object that is found",
    "localisation": "the right class, but too far off",
    "both": "a wrong class and too far off",
    "duplicate": "an object found once more",
    "background": "nothing is there",
    "missed": "an object that no detection is near",
}


class Pairs(NamedTuple):
    """One image: its detections, best first, and its objects."""

    scores: np.ndarray  # [d]
    classes: np.ndarray  # [d], in the case's order of categories
    truth: np.ndarray  # [g], the objects' classes
    crowd: np.ndarray  # [g] bool
    ious: np.ndarray  # [d, g]; for a crowd the share of the detection that lies in it


class ErrorSplit(NamedTuple):
    """Why AP50 is not 1."""

    ap50: float  # -1 where there is nothing to find
    counts: dict  # {reason: how many}
    prices: dict  # {reason: how much higher AP50 would be without it}


def pair_images(case, kind):
    """-> a Pairs for each image of a `coco_truth.EvalInputs`. kind: "bbox" or "segm"."""
    index = {category_id: i for i, category_id in enumerate(case.categories)}
    found, there = ({image_id: [] for image_id in case.images} for _ in range(2))
    for result in case.results:
        found[result["image_id"]].append(result)
    for annotation in usable_annotations(case, kind, notes=[]):
        there[annotation["image_id"]].append(annotation)
    pairs = []
    for image_id, image in case.images.items():
        results = _best(found[image_id])
        crowd = [int(a["iscrowd"]) for a in there[image_id]]
        objects = [_shape(a[FIELDS[kind]], image, kind) for a in there[image_id]]
        ious = np.zeros((len(results), len(objects)))
        if results and objects:
            ious = coco_mask.iou([_shape(r[FIELDS[kind]], image, kind) for r in results], objects, crowd)
        pairs.append(
            Pairs(
                np.array([r["score"] for r in results], float),
                np.array([index[r["category_id"]] for r in results], int),
                np.array([index[a["category_id"]] for a in there[image_id]], int),
                np.array(crowd, bool),
                np.asarray(ious).reshape(len(results), len(objects)),
            )
        )
    return pairs


def split_errors(pairs, num_classes):
    """Gives each error its reason. pairs: of every image, as `pair_images` gives them. Returns an ErrorSplit."""
    # (score, image and place, class, right) of what counts; per reason the errors as (score, ..., class, the object).
    rows, errors, missed = [], {reason: [] for reason in REASONS}, np.zeros(num_classes, int)
    objects = np.zeros(num_classes, int)
    for image, pair in enumerate(pairs):
        objects += np.bincount(pair.truth[~pair.crowd], minlength=num_classes)
        matches = _match(pair)
        used = set(matches[matches >= 0].tolist())
        explained = set()
        for place, match in enumerate(matches):
            if match == IGNORED:
                continue
            at = (-pair.scores[place], image, place)
            rows.append((*at, pair.classes[place], match >= 0))
            if match < 0:
                reason, nearest = _reason(pair, place)
                fixable = nearest if reason in ("class", "localisation") else None
                if fixable is not None:
                    explained.add(nearest)
                free = fixable is not None and nearest not in used
                errors[reason].append((*at, pair.truth[nearest] if free else None, nearest))
        for number, (label, crowd) in enumerate(zip(pair.truth, pair.crowd, strict=True)):
            if not crowd and number not in used | explained:
                missed[label] += 1
    ap50 = _mean_ap(rows, objects)
    counts = {reason: len(found) for reason, found in errors.items()} | {"missed": int(missed.sum())}
    prices = {reason: _mean_ap(_without(rows, found), objects) - ap50 for reason, found in errors.items()}
    prices["missed"] = _mean_ap(rows, objects - missed, objects > 0) - ap50
    return ErrorSplit(ap50, counts, prices)


def count_confusions(pairs, num_classes, threshold=0.5):
    """Which class is taken for which: [K + 1, K + 1] int, objects by rows, detections by columns.

    A detection that scores at least `threshold` is paired with the free object that it overlaps most, at IoU 0.5 or
    more, whatever its class. The last column counts objects that none is paired with, the last row detections where no
    object is; what lies in a crowd of its class is left out.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for pair in pairs:
        free = ~pair.crowd
        for place in np.flatnonzero(pair.scores >= threshold):
            ious, label = pair.ious[place], pair.classes[place]
            nearest = _nearest(ious, free)
            if nearest is not None:
                free[nearest] = False
                matrix[pair.truth[nearest], label] += 1
            elif not (ious[pair.crowd & (pair.truth == label)] >= FOREGROUND).any():
                matrix[num_classes, label] += 1
        for label in pair.truth[free]:
            matrix[label, num_classes] += 1
    return matrix


def _match(pair):
    """COCO's greedy pairing at IoU 0.5: for each detection the object that it finds, WRONG or IGNORED."""
    matches = np.full(len(pair.scores), WRONG)
    free = ~pair.crowd
    for place, label in enumerate(pair.classes):
        same = pair.truth == label
        nearest = _nearest(pair.ious[place], same & free)
        if nearest is not None:
            matches[place], free[nearest] = nearest, False
        elif (pair.ious[place, same & pair.crowd] >= FOREGROUND).any():
            matches[place] = IGNORED
    return matches


def _nearest(ious, candidates):
    """The candidate of the highest IoU, the last of equals as in COCO; None below 0.5."""
    ious = np.where(candidates, ious, -1.0)
    if not len(ious) or ious.max() < FOREGROUND:
        return None
    return len(ious) - 1 - int(np.argmax(ious[::-1]))


def _reason(pair, place):
    """TIDE's reason for a wrong detection, and the object that it is about, or None."""
    ious = np.where(pair.crowd, 0.0, pair.ious[place])
    same = pair.truth == pair.classes[place]
    right, wrong = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
    if not len(ious) or ious.max() < BACKGROUND:
        return "background", None
    if BACKGROUND <= right.max() < FOREGROUND:
        return "localisation", int(right.argmax())
    if wrong.max() >= FOREGROUND:
        return "class", int(wrong.argmax())
    if right.max() >= FOREGROUND:
        return "duplicate", int(right.argmax())
    return "both", int(wrong.argmax())


def _without(rows, errors):
    """The rows with some errors mended: they find their object if it is free, the best of them; the others go."""
    labels, taken = {}, set()
    for score, image, place, label, nearest in sorted(errors, key=lambda error: error[:3]):
        labels[image, place] = None
        if label is not None and (image, nearest) not in taken:
            taken.add((image, nearest))
            labels[image, place] = (score, image, place, label, True)
    mended = (labels.get(row[1:3], row) for row in rows)
    return [row for row in mended if row is not None]


def _mean_ap(rows, objects, classes=None):
    """AP at 101 recalls, the mean over the classes that have objects; -1 if none has.

    A class of which no object is left, all of them having been missed, counts 1 if nothing is wrongly found.
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
    """Best first, no more of a class than COCO counts."""
    kept, seen = [], {}
    for result in sorted(results, key=lambda r: -r["score"]):
        number = seen[result["category_id"]] = seen.get(result["category_id"], 0) + 1
        if number <= LIMIT:
            kept.append(result)
    return kept


def _shape(shape, image, kind):
    """A box, or run lengths, as pycocotools compares them."""
    if kind == "bbox":
        return shape
    if isinstance(shape, dict) and not isinstance(shape["counts"], list):
        return shape
    runs = coco_mask.frPyObjects(shape, image["height"], image["width"])
    return coco_mask.merge(runs) if isinstance(runs, list) else runs
