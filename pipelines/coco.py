"""A COCO annotation file, read and checked: ids, and what refers to what.

Called by `pipelines.plan`. A file that cannot mean anything is the user's mistake and stops the job; a single bad
entry is rejected and tallied. Boxes and masks are checked later, by the workers (`pipelines.objects`).
"""

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from htc_tf.errors import UserError
from pipelines import files
from pipelines.checks import Rejected, Tally

OBJECT_KEYS = ("id", "category_id", "bbox", "area", "iscrowd", "segmentation")
LISTS = ("images", "annotations", "categories")
INT64 = 1 << 63


def check_file(path: str, flag: str = "--annotations") -> None:
    """Raises UserError unless there is a file with something in it."""
    number = files.size(path)
    if number is None:
        raise UserError(f"{flag} {path}: no such file")
    if number == 0:
        raise UserError(f"{flag} {path} is empty (0 bytes)")


def read(path: str, flag: str = "--annotations", keys: Sequence[str] = LISTS) -> dict[str, Any]:
    """The file's content, with the lists that `keys` name, none of them empty; `flag` is where the user named it."""
    try:
        with io.TextIOWrapper(files.open_to_read(path), encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{flag} {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag} {path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{flag} {path} is no COCO annotation file: it holds a {type(content).__name__}")
    for key in keys:
        if not isinstance(content.get(key), list):
            raise UserError(f"{flag} {path} has no list '{key}': it is no COCO annotation file of this kind")
        if not content[key]:
            raise UserError(f"{flag} {path}: its list '{key}' is empty")
    return content


def check_categories(categories: list[Any], path: str, flag: str = "--annotations") -> list[dict[str, Any]]:
    """The thing classes in the order of their ids, as {"id", "name"}."""
    checked = {}
    for entry in categories:
        if not (isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("name"), str)):
            raise UserError(f"{flag} {path}: category {str(entry)[:80]} lacks an integer id or a name")
        if entry["id"] in checked:
            raise UserError(f"{flag} {path}: category id {entry['id']} is defined twice")
        checked[entry["id"]] = {"id": entry["id"], "name": entry["name"]}
    return [checked[key] for key in sorted(checked)]


def check_images(images: list[Any], tally: Tally) -> dict[int, dict[str, Any]]:
    """The usable images by id, as {"id", "file_name", "height", "width"}."""
    checked = {}
    for entry in images:
        try:
            image = _check_image(entry)
            if image["id"] in checked:
                raise Rejected("image_duplicate", f"{image['file_name']} has the id of an earlier image")
            checked[image["id"]] = image
        except Rejected as error:
            who = entry if isinstance(entry, dict) else {}
            tally.reject(error, image_id=who.get("id"), file_name=who.get("file_name"))
    return checked


def check_annotations(
    annotations: list[Any], images: dict[int, Any], categories: set[int], tally: Tally
) -> dict[int, list[dict[str, Any]]]:
    """The annotations of every image, in the file's order, cut down to what a worker needs.

    An annotation of an image that was rejected is left out with it, and counted as such.
    """
    rejected_images = {row["image_id"] for row in tally.rejected if type(row["image_id"]) is int} - images.keys()
    grouped, seen = defaultdict(list), set()
    next_id = 1 + max((entry["id"] for entry in annotations if _has_id(entry)), default=0)
    for entry in annotations:
        try:
            _check_annotation(entry, seen, categories)
            image_id = entry.get("image_id")
            if type(image_id) is int and image_id in rejected_images:
                tally.count("objects_of_rejected_images")
                continue
            if type(image_id) is not int or image_id not in images:
                raise Rejected("image_unknown", f"image_id {image_id} is not among the images")
        except Rejected as error:
            who = entry if isinstance(entry, dict) else {}
            row = {"image_id": who.get("image_id"), "annotation_id": who.get("id")}
            if error.reason == "category_unknown":
                row["category_id"] = who.get("category_id")
            tally.reject(error, **row)
            continue
        kept = {key: entry.get(key) for key in OBJECT_KEYS}
        kept["iscrowd"] = kept["iscrowd"] or 0
        if kept["id"] == 0:
            kept["id"], next_id = next_id, next_id + 1
            tally.count("ids_renumbered")
        grouped[image_id].append(kept)
    return grouped


def _check_image(entry):
    if not (isinstance(entry, dict) and _is_id(entry.get("id")) and entry["id"] >= 0):
        raise Rejected("image_malformed", f"no integer id of 0 or more: {str(entry)[:80]}")
    name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not (isinstance(name, str) and name.strip() and "\0" not in name):
        raise Rejected("image_malformed", f"file_name {name!r}")
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise Rejected("image_malformed", f"{name}: height {height}, width {width}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Rejected("image_outside_root", f"file_name {name}")
    return {"id": entry["id"], "file_name": name, "height": height, "width": width}


def _check_annotation(entry, seen, categories):
    if not _has_id(entry) or entry.get("iscrowd") not in (0, 1, None):
        raise Rejected("annotation_malformed", f"no integer id, or iscrowd is not 0 or 1: {str(entry)[:80]}")
    if entry["id"] in seen:
        raise Rejected("annotation_duplicate", f"id {entry['id']}")
    seen.add(entry["id"])
    category = entry.get("category_id")
    if type(category) is not int or category not in categories:
        raise Rejected("category_unknown", f"category_id {category} is not defined by the categories")


def _has_id(entry):
    return isinstance(entry, dict) and _is_id(entry.get("id"))


def _is_id(value):
    return type(value) is int and -INT64 <= value < INT64
