"""COCO JSON files for evaluation: annotations and results, read, validated, and repaired where unambiguous.

The files may come from any program.
"""

import numbers
import sys
import unicodedata
from collections import Counter
from pathlib import PureWindowsPath

import numpy as np

from htc_tf.data import annotations as coco_file
from htc_tf.errors import UserError

# Required fields of every entry: integers, except for the name.
REQUIRED = {
    "images": ("id", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id"),
}
MAX_ID, MAX_SIDE = 2**63 - 1, 1_000_000
INSTANCES_ADVICE, RESULTS_ADVICE = "give COCO's instances JSON", "give results in COCO's format"


class BadResult(UserError):
    """A result that cannot be evaluated; the message begins with its place in the list, and needs the file's name."""


def read_ground_truth(ground_truth):
    """Returns COCO's validated instances dictionary, given as such or as the path of its JSON file.

    Raises:
        UserError: The file cannot be read, or an entry lacks a required field or has one of another type.
    """
    name = "the ground truth" if isinstance(ground_truth, dict) else str(ground_truth)
    if not isinstance(ground_truth, dict):
        ground_truth = _read(
            ground_truth, INSTANCES_ADVICE, lambda content: content if isinstance(content, dict) else {}
        )
    for key, fields in REQUIRED.items():
        if not isinstance(ground_truth, dict) or not isinstance(ground_truth.get(key), list):
            raise UserError(f"{name}: has no list '{key}'; {INSTANCES_ADVICE}")
        for index, entry in enumerate(ground_truth[key]):
            _check_entry(entry, fields, f"{name}: {key}[{index}]")
    for key in ("images", "categories"):
        ids = Counter(entry["id"] for entry in ground_truth[key])
        if len(ids) < len(ground_truth[key]):
            raise UserError(f"{name}: several {key} have id {ids.most_common(1)[0][0]}; give each its own")
    return ground_truth


def read_results(path):
    """Returns COCO's results from a JSON file, a list of dicts as `inference.results.coco_results` returns them.

    `coco_inputs.prepare_inputs` validates the fields of each.

    Raises:
        UserError: The file has another content.
    """
    results = _read(path, RESULTS_ADVICE, lambda content: {"annotations": content})
    if not isinstance(results, list) or not all(isinstance(entry, dict) for entry in results):
        raise UserError(f"{path}: is not a list of results; {RESULTS_ADVICE}")
    return results


def find_kinds(results):
    """Returns the kinds by which results can be evaluated: "bbox", "segm" or both.

    Raises:
        BadResult: Only some results have a field, or none has any.
    """
    kinds = []
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        lacking = [index for index, result in enumerate(results) if field not in result]
        if lacking and len(lacking) < len(results):
            raise BadResult(
                f"result {lacking[0]} has no '{field}' ({len(lacking)} of {len(results)} have none): give it to all "
                "results or to none"
            )
        if not lacking:
            kinds.append(kind)
    if not kinds:
        raise BadResult(f"the results have neither 'bbox' nor 'segmentation'; {RESULTS_ADVICE}")
    return tuple(kinds)


def check_same(recorded, ground_truth, records, annotations):
    """Checks that annotations have the records' classes and images; afterwards only ids are compared.

    Args:
        recorded: COCO's dictionary of the records, as `data.datasets.coco_from_records` returns it.
        ground_truth: COCO's dictionary of the annotation file.
        records, annotations: Their paths, for the message.
    Raises:
        UserError: An id of the records is missing in the annotations, or has another name there.
    """
    advice = f"give the annotations that {records} was made from, or leave --annotations out"
    for key, noun, name_of in (("categories", "category", _class_name), ("images", "image", file_name)):
        theirs = {entry["id"]: entry for entry in ground_truth[key]}
        if lacking := [entry["id"] for entry in recorded[key] if entry["id"] not in theirs]:
            raise UserError(
                f"{annotations} has no {noun} {lacking[0]}, which {records} has ({len(lacking)} such ids): {advice}"
            )
        pairs = [(entry["id"], name_of(entry), name_of(theirs[entry["id"]])) for entry in recorded[key]]
        if other := [pair for pair in pairs if None not in pair and pair[1] != pair[2]]:
            (number, ours, name) = other[0]
            raise UserError(
                f"{noun} {number} is {name!r} in {annotations}, but {ours!r} in {records} ({len(other)} such ids): "
                f"{advice}"
            )


def check_file_names(results, ground_truth):
    """Checks the file names in results, which `htc_tf.predict` writes, against the annotations'.

    Raises:
        UserError: The annotations' image with that id is another file.
    """
    names = {image["id"]: file_name(image) for image in ground_truth["images"]}
    for index, result in enumerate(results):
        number = result.get("image_id")
        ours, theirs = file_name(result), names.get(number) if is_number(number) else None
        if None not in (ours, theirs) and ours != theirs:
            raise BadResult(
                f"result {index} is of {ours}, but image {result['image_id']} is {theirs} in the annotations: results "
                "must hold the annotations' image ids, as python -m htc_tf.eval writes them"
            )


def file_name(entry):
    """Returns an image's normalized file name without folder and suffix; None if the entry has none."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        return None
    return unicodedata.normalize("NFC", PureWindowsPath(name).stem).casefold()  # splits at both kinds of slashes


def is_number(value):
    """Returns True for a JSON value that is a number in the range of float, NaN and infinity included."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max


def is_box(box):
    return isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4 and all(map(is_number, box))


def _class_name(category):
    return str(category["name"])


def _read(path, advice, annotations_of):
    """Returns the content of a JSON file, with unambiguous damage repaired; repairs are printed with their counts.

    Args:
        path: Path of the file.
        advice: String, the remedy in error messages.
        annotations_of: Function from the content to the part to repair, a dictionary in COCO's form.
    """
    repairs = Counter()
    try:
        with open(path, "rb") as file:
            content = coco_file.load(file, str(path), repairs)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
    except UserError as error:
        raise UserError(f"{error}; {advice}") from error
    coco_file.repair(annotations_of(content), repairs)
    coco_file.print_repairs(str(path), repairs)
    return content


def _check_entry(entry, fields, where):
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not an object; {INSTANCES_ADVICE}")
    for field in fields:
        if field not in entry:
            raise UserError(f"{where} has no '{field}'; {INSTANCES_ADVICE}")
        low, high = (1, MAX_SIDE) if field in ("height", "width") else (-MAX_ID, MAX_ID)
        value = entry[field]
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if field != "name" and not (whole and low <= value <= high):
            raise UserError(f"{where}: '{field}' is {_shown(value)}; {INSTANCES_ADVICE}")
    if "category_id" in fields:
        box = entry.get("bbox")
        if not is_box(box):
            if not coco_file.lacks_box(entry):
                raise UserError(
                    f"{where}: 'bbox' is {_shown(box)}, not four numbers x, y, width, height; {INSTANCES_ADVICE}"
                )
            if not entry.get("segmentation"):
                raise UserError(f"{where} has no 'bbox'; {INSTANCES_ADVICE}")


def _shown(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
