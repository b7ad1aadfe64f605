"""Which objects an evaluation finds, names and outlines: shares by size, by what is beside them and by score.

AP says that two networks differ; these shares say on which objects. `tests.studies.ablation` compares its rows by them.
"""

import itertools
import json

import numpy as np

from htc_tf.evaluation.coco_inputs import prepare_inputs
from htc_tf.evaluation.error_analysis import FOREGROUND, pair_images
from tests.studies import intervals, recorded

SCORE = 0.3  # the least score of a detection that counts
GROUPS = ("all", "crowded", "alone", "small", "large", "surest")
SHARES = {
    "found": "the share of objects with a detection of any class, a score of at least 0.3 and a mask IoU of at least "
    "0.5",
    "named": "of those found, the share whose detection, the best-scored of these, has the right class",
    "shape": 'of those found, the share whose detection has the right shape, the class\'s name before "on"',
    "ground": 'of those found, the share whose detection has the right ground, the class\'s name after "on"',
    "outlined": "of those found, the mean mask IoU of this detection",
}


def measure_objects(annotations, predictions):
    """Measures what the saved detections of an evaluation say of each object.

    Args:
        annotations: Path of the COCO annotation file; no object is a crowd. Classes are named "circle on lines".
        predictions: Path of results in COCO's format, as htc_tf.eval saves them.
    Returns:
        {group: {share: value}} for GROUPS and SHARES, with the number of objects as "objects". An object is crowded if
        its box overlaps another's, and small if its area is below the median; the surest are the quarter of those found
        whose detections have the highest scores.
    """
    inputs = prepare_inputs(json.loads(annotations.read_text()), json.loads(predictions.read_text()))
    pairs = pair_images(inputs, "segm")
    names = np.array([name.split(" on ") for name in inputs.names])  # [K, 2]
    found = np.concatenate([match_objects(pair, names) for pair in pairs])
    crowded = np.concatenate([find_crowded(pair) for pair in pairs])
    areas = np.array([entry["area"] for pair in pairs for entry in pair.annotations])
    small = areas < np.median(areas)
    members = {"all": small | ~small, "crowded": crowded, "alone": ~crowded, "small": small, "large": ~small}
    scores = found[:, 1]
    members["surest"] = scores >= np.quantile(scores[scores > 0], 0.75) if scores.any() else scores > 0
    return {group: average(found[members[group]]) for group in GROUPS}


def match_objects(pair, names):
    """Returns [g, 4]: the mask IoU and the score of each object's detection, and whether shape and ground are right.

    All are 0 for an object without a detection.

    Args:
        pair: `error_analysis.Pairs` of an image. Detections are sorted by score, so the first with enough IoU counts.
        names: [K, 2] str, shape and ground of each class.
    """
    fits = (pair.ious >= FOREGROUND) & (pair.scores >= SCORE)[:, None]
    found = np.zeros([len(pair.gt_classes), 4])
    for place in np.flatnonzero(fits.any(0)):
        best = fits[:, place].argmax()
        right = names[pair.classes[best]] == names[pair.gt_classes[place]]
        found[place] = pair.ious[best, place], pair.scores[best], *right
    return found


def find_crowded(pair):
    """Returns [g] bool: whether each object's box overlaps another's."""
    boxes = np.array([entry["bbox"] for entry in pair.annotations], float).reshape(-1, 4)
    begins_before = (boxes[:, None, :2] < boxes[:, :2] + boxes[:, 2:]).all(2)  # [i, j]: i begins before j ends
    return (begins_before & begins_before.T).sum(1) > 1  # each overlaps itself


def average(found):
    """Returns {share: value, "objects": n} of the [n, 4] of `match_objects`."""
    hit = found[found[:, 0] > 0]
    shape, ground = hit[:, 2], hit[:, 3]
    parts = {"named": shape * ground, "shape": shape, "ground": ground, "outlined": hit[:, 0]}
    shares = {"found": len(hit) / max(len(found), 1)}
    shares |= {name: values.mean() if len(hit) else 0 for name, values in parts.items()}
    return {**{name: round(float(value), 5) for name, value in shares.items()}, "objects": len(found)}


def compare_objects(measured):
    """Returns lines with a table for each share: by group, the first row's share and what each next one adds.

    Args:
        measured: {row's title: [what `measure_objects` returns, by seed]}; at least two rows and seeds.
    """
    titles = list(measured)
    numbers = measured[titles[0]][0]
    lines = [
        "Which objects gain? An object is crowded if its box overlaps another's, and small if its area is below the "
        "median; the surest are the quarter of those found whose detections have the highest scores. Each cell: the "
        "mean difference over the seeds and its 95 % interval, in hundredths.",
    ]
    for share, meaning in SHARES.items():
        rows = []
        for group in GROUPS:
            values = [[100 * of[group][share] for of in measured[title]] for title in titles]
            cells = [f"{group} ({numbers[group]['objects']:,})", f"{np.mean(values[0]):.1f}"]
            for before, after in [*itertools.pairwise(values), (values[0], values[-1])]:
                gain, interval, sure = intervals.compare(before, after, digits=1)
                cells.append(f"{f'**{gain}**' if sure == 'yes' else gain} ({interval})")
            rows.append(cells)
        header = ["objects", titles[0], *titles[1:], "all of them"]
        lines += ["", f"{share.capitalize()}: {meaning}.", "", *recorded.format_table(header, rows)]
    return lines
