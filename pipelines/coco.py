"""COCO annotation file: reading, and checks of ids and of references between images, annotations and categories.

A file without any usable meaning is the user's mistake and ends the job; a single bad entry is rejected and counted. An
entry with only one interpretation is repaired and counted, by `htc_tf.data.annotations` and here. The workers check
boxes and masks later (`pipelines.objects`).
"""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from htc_tf.data import annotations as annotation_files
from htc_tf.data.annotations import LISTS
from htc_tf.errors import UserError

from . import file_names, files
from .checks import Counters, Rejected, encodable, show

OBJECT_KEYS = ("id", "category_id", "bbox", "area", "iscrowd", "segmentation")
INT64 = 1 << 63
MAX_DEPTH = 8  # levels of lists in an annotation; a polygon as a list of [x, y] has 3
# Keys that identify COCO's other files.
OTHER_ANNOTATIONS = {
    "segments_info": "a panoptic file; give COCO's instances_*.json, and this file with --stuff",
    "caption": "a file of captions; give COCO's instances_*.json",
}
MAX_NAMED = 8


def check_file(path: str, flag: str = "--annotations") -> None:
    """Raises UserError unless `path` is a file that is not empty."""
    number = files.size(path)
    if number is None:
        if not files.is_remote(path) and os.path.isdir(path):
            raise UserError(f"{flag} {path} is a folder: give the JSON file in it")
        if not files.is_remote(path) and os.path.exists(path):
            raise UserError(f"{flag} {path} is a pipe or a device: give a file")
        raise UserError(f"{flag} {path}: no such file")
    if number == 0:
        raise UserError(f"{flag} {path} is empty (0 bytes)")


def read(
    path: str,
    counters: Counters,
    flag: str = "--annotations",
    keys: Sequence[str] = LISTS,
    may_be_empty: Sequence[str] = ("annotations",),
) -> dict[str, Any]:
    """Reads and repairs an annotation file.

    Args:
        path: The file.
        counters: Counters.
        flag: The flag that names the file, for messages.
        keys: Keys of lists that must be present.
        may_be_empty: Those that may be empty: a dataset of background only has no annotations.
    Raises:
        UserError: The file cannot be read, or is not a COCO annotation file.
    """
    name = f"{flag} {path}"
    try:
        with files.open_to_read(path) as file:
            content = annotation_files.load(file, name, counters.counts)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None
    if not isinstance(content, dict):
        what = "a list, as COCO's results do" if isinstance(content, list) else show(content)
        raise UserError(f"{name} is not a COCO annotation file: it holds {what}, not an object with {', '.join(keys)}")
    annotation_files.repair(content, counters.counts)
    for key in keys:
        if not isinstance(content.get(key), list):
            raise UserError(f"{name} has no list '{key}': {_other_file(content, key)}")
        if not content[key] and key not in may_be_empty:
            raise UserError(f"{name}: its list '{key}' is empty")
    return content


def check_categories(
    categories: list[Any], path: str, counters: Counters, flag: str = "--annotations"
) -> list[dict[str, Any]]:
    """Returns the thing classes in the order of their ids, as {"id", "name"}; warns of repeated names."""
    checked = {}
    for place, entry in enumerate(categories):
        where = f"{flag} {path}: categories[{place}]"
        if not isinstance(entry, dict) or not _is_id(entry.get("id")):
            raise UserError(f"{where} has no integer id{describe_found(entry, 'id')}")
        if not isinstance(entry.get("name"), str):
            raise UserError(f"{where}, id {entry['id']}, has no name (a string)")
        if encodable(entry["name"]) != entry["name"]:
            raise UserError(
                f"{where}, id {entry['id']}: its name {show(entry['name'])} contains an unpaired surrogate: correct it"
            )
        if checked.get(entry["id"], entry)["name"] != entry["name"]:
            names_found = f"{show(checked[entry['id']]['name'])} and {show(entry['name'])}"
            raise UserError(f"{flag} {path}: category id {entry['id']} is defined twice, as {names_found}")
        checked[entry["id"]] = {"id": entry["id"], "name": entry["name"]}
    rows = [checked[key] for key in sorted(checked)]
    for name, number in Counter(row["name"] for row in rows).items():
        if number > 1:
            ids = [row["id"] for row in rows if row["name"] == name]
            counters.warnings.append(
                f"{number} classes are named {name!r} (category ids {listed(ids)}): they remain separate classes"
            )
    return rows


def check_images(images: list[Any], counters: Counters, root: str | None = None) -> dict[int, dict[str, Any]]:
    """Returns the usable images by id, as {"id", "file_name", "height", "width"}.

    Args:
        images: The file's images.
        counters: Counters.
        root: The image folder, to look for the files in; None leaves the names unchecked.
    """
    checked, repeated = {}, set()
    for entry in images:
        try:
            image = _check_image(entry, root, counters)
            if checked.get(image["id"]) == image:
                raise Rejected("image_duplicate", f"id {image['id']} is listed twice with the same content")
            if image["id"] in checked:
                repeated.add(image["id"])
                other = checked[image["id"]]["file_name"]
                raise Rejected("image_duplicate", f"id {image['id']} belongs to {other} and to {image['file_name']}")
            checked[image["id"]] = image
        except Rejected as error:
            fields = entry if isinstance(entry, dict) else {}
            counters.reject(error, image_id=fields.get("id"), file_name=fields.get("file_name"))
    for image_id in repeated:
        name = checked.pop(image_id)["file_name"]
        counters.reject(
            Rejected("image_duplicate", f"id {image_id} belongs to other images too"), image_id=image_id, file_name=name
        )
    _warn_of_shared_files(checked, counters)
    return checked


def check_annotations(
    annotations: list[Any], images: dict[int, Any], categories: list[dict[str, Any]], counters: Counters
) -> dict[int, list[dict[str, Any]]]:
    """Groups the annotations by image id, in the file's order, reduced to the keys that a worker needs.

    Annotations of rejected images are counted and left out.

    Args:
        annotations: The file's annotations.
        images: Result of `check_images`.
        categories: Result of `check_categories`; warns of those without annotations.
        counters: Counters.
    """
    rejected_images = {row["image_id"] for row in counters.rejected if type(row["image_id"]) is int} - images.keys()
    classes = {row["id"]: row["name"] for row in categories}
    grouped, seen, used = defaultdict(list), {}, set()
    fresh = unused_ids(annotations)
    for entry in annotations:
        try:
            _check_annotation(entry, seen, classes)
            image_id = entry.get("image_id")
            if type(image_id) is int and image_id in rejected_images:
                counters.count("objects_of_rejected_images")
                continue
            if type(image_id) is not int or image_id not in images:
                raise Rejected("image_unknown", _explain_image_id(entry))
        except Rejected as error:
            fields = entry if isinstance(entry, dict) else {}
            row = {"image_id": fields.get("image_id"), "annotation_id": fields.get("id")}
            if error.reason == "category_unknown":
                row["category_id"] = fields.get("category_id")
            counters.reject(error, **row)
            continue
        kept = {key: entry.get(key) for key in OBJECT_KEYS}
        kept["iscrowd"] = kept["iscrowd"] or 0
        # Ids only distinguish objects, so any new id will do. pycocotools takes 0 as "no object".
        if not _is_id(kept["id"]) or kept["id"] == 0 or seen[kept["id"]] is not entry:
            kept["id"] = next(fresh)
            counters.count("ids_renumbered")
        used.add(kept["category_id"])
        grouped[image_id].append(kept)
    unused = [name for category_id, name in classes.items() if category_id not in used]
    if unused and grouped:
        counters.warnings.append(f"{len(unused)} of {len(classes)} classes have no object: {listed(unused)}")
    return grouped


def describe_found(entry: Any, key: str) -> str:
    """Describes the value found instead of an integer under `key`, for a message."""
    if not isinstance(entry, dict):
        return f": the entry is {show(entry)}, not an object"
    value = entry.get(key)
    if value is not None:
        text = "the string " if isinstance(value, str) else ""
        return f": it is {text}{show(value)}"
    others = [other for other in entry if other.lower().replace("_", "").endswith("id") and other != "id"]
    return f"; the entry has {listed(others)}" if others else ""


def unused_ids(entries: Sequence[Any]) -> Iterator[int]:
    """Yields ids that no entry has: from the largest + 1, or from 1 if too few are left above it."""
    taken = {entry["id"] for entry in entries if isinstance(entry, dict) and _is_id(entry.get("id"))}
    start = max(max(taken, default=0) + 1, 1)
    yield from (n for n in itertools.count(start if start + len(entries) < INT64 else 1) if n not in taken)


def listed(values: Sequence[Any]) -> str:
    """Lists the first values, for a message."""
    text = ", ".join(show(value) for value in values[:MAX_NAMED])
    return f"{text}, and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else text


def _check_image(entry, root, counters):
    if not isinstance(entry, dict):
        raise Rejected("image_malformed", f"the entry is {show(entry)}, not an object")
    if not _is_id(entry.get("id")) or entry["id"] < 0:
        raise Rejected("image_malformed", f"no integer id from 0 to 2^63 - 1{describe_found(entry, 'id')}")
    name = file_names.file_name(entry, root, counters)
    sides = {key: entry.get(key) for key in ("height", "width")}
    if not all(type(side) is int and 0 < side < INT64 for side in sides.values()):
        found = ", ".join(f"{key} is {show(side)}" if side is not None else f"no {key}" for key, side in sides.items())
        raise Rejected("image_malformed", f"{found}; both must be the image's, in pixels")
    return {"id": entry["id"], "file_name": name, **sides}


def _warn_of_shared_files(images, counters):
    """Warns of files under several ids: each copy is learned without the objects of the others."""
    ids = defaultdict(list)
    for image in images.values():
        ids[str(PurePosixPath(image["file_name"]))].append(image["id"])
    shared = {name: image_ids for name, image_ids in ids.items() if len(image_ids) > 1}
    if shared:
        name, image_ids = next(iter(shared.items()))
        number = sum(map(len, shared.values()))
        counters.count("images_sharing_a_file", number)
        counters.warnings.append(
            f"{number} images share files with others, the first is {show(name)} (ids {listed(image_ids)}): each "
            "keeps only its own objects; merge the entries, or correct file_name"
        )


def _check_annotation(entry, seen, categories):
    if not isinstance(entry, dict):
        raise Rejected("annotation_malformed", f"the entry is {show(entry)}, not an object")
    # A worker's stack is deeper than this one: it could not read the plan's line.
    if _is_deep([[entry.get(key) for key in OBJECT_KEYS]]):
        raise Rejected("annotation_malformed", f"its lists are nested more than {MAX_DEPTH} levels deep")
    if entry.get("iscrowd") not in (0, 1, None):
        raise Rejected("annotation_malformed", f"iscrowd is {show(entry['iscrowd'])}, neither 0 nor 1")
    if _is_id(entry.get("id")) and seen.setdefault(entry["id"], entry) is not entry and seen[entry["id"]] == entry:
        raise Rejected("annotation_duplicate", f"id {entry['id']} is listed twice with the same content")
    category = entry.get("category_id")
    if type(category) is not int or category not in categories:
        raise Rejected("category_unknown", _explain_category(entry, category))


def _is_deep(rows):
    """Returns True if lists are nested more than MAX_DEPTH levels below `rows`; numbers are passed at C's speed."""
    for _ in range(MAX_DEPTH + 1):
        values = [row.values() if isinstance(row, dict) else row for row in rows]
        nested = (row for row in values if not {list, dict}.isdisjoint(map(type, row)))
        rows = [value for row in nested for value in row if isinstance(value, (list, dict))]
    return bool(rows)


def _explain_category(entry, category):
    if category is not None:
        return f"category_id {show(category)} is not defined by the categories"
    for key, file in OTHER_ANNOTATIONS.items():
        if key in entry:
            return f"no category_id, but {key}: this is {file}"
    return f"no category_id{describe_found(entry, 'category_id')}"


def _explain_image_id(entry):
    image_id = entry.get("image_id")
    if isinstance(image_id, int):
        return f"image_id {show(image_id)} is not among the images"
    return f"no integer image_id{describe_found(entry, 'image_id')}"


def _other_file(content, key):
    """Describes what the file may be instead, for a message."""
    if content.get(key) is not None:
        return f"it is {show(content[key])}, not a list of objects"
    if key == "annotations" and content.get("images"):
        return "a test set (image_info_*.json) has no ground truth to prepare"
    if key == "categories" and content.get("annotations"):
        return "COCO's instances_*.json define the classes there; captions_*.json have none"
    return f"it is not a COCO annotation file; its keys are {listed(list(content)) or 'none'}"


def _is_id(value):
    return type(value) is int and -INT64 <= value < INT64
