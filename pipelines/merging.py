"""Merging of COCO annotation files into one: images and annotations get unique ids, classes are matched by name.

An id is kept if it is an integer that no earlier file uses; else it becomes the next number above all files' ids. So
the first file keeps its ids, and the same files in the same order always give the same ids. An image that several files
list is one image with the objects of all; an object that they repeat is kept once.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from . import coco, lvis
from .checks import Counters, Rejected, show
from .coco import listed

MAX_WARNINGS = 5


def needs_new_ids(contents: Sequence[dict[str, Any]]) -> bool:
    """True if ids may have to change: there are several files, or an image's id is a name."""
    return len(contents) > 1 or any(
        isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in contents[0]["images"]
    )


def merge(
    contents: Sequence[dict[str, Any]], paths: Sequence[str], folders: Sequence[str], counters: Counters
) -> tuple[dict[str, Any], bool]:
    """Merges the contents of annotation files, which it alters.

    Args:
        contents: Results of `coco.read`.
        paths: The files, for messages.
        folders: The image folder of each file.
        counters: Counters.
    Returns:
        (content, same): one content like those given; and True if every image keeps the id that its files give it.
    """
    classes = [
        coco.check_categories(content["categories"], path, counters)
        for content, path in zip(contents, paths, strict=True)
    ]
    categories, class_ids = _merge_classes(classes, paths, counters)
    for content, ids in zip(contents, class_ids, strict=True):
        lvis.renumber(content["images"], ids)
    images, image_ids, shared = _merge_images(contents, folders, counters)
    annotations, seen = [], defaultdict(dict)
    for number, content in enumerate(contents):
        for entry in content["annotations"]:
            try:
                kept = _renumber(entry, image_ids[number], class_ids[number], paths[number])
            except Rejected as error:
                row = {"category_id": entry.get("category_id")} if error.reason == "category_unknown" else {}
                counters.reject(error, image_id=entry.get("image_id"), annotation_id=entry.get("id"), **row)
                continue
            is_shared = kept and entry["image_id"] in shared
            if is_shared and seen[entry["image_id"]].setdefault(_describe_object(entry), number) != number:
                counters.count("annotations_repeated")
            else:
                annotations.append(entry)
    same = all(old == new for ids in image_ids for old, new in ids.items())
    return {"images": images, "annotations": annotations, "categories": categories}, same


def _merge_classes(classes, paths, counters):
    """Returns the categories of all files, and for each file the new id of each category id.

    Classes of the same name in one file remain separate: the first matches the first of the other files.
    """
    fresh = coco.unused_ids([row for rows in classes for row in rows])
    merged, new_ids = {}, []
    for rows in classes:
        count, ids = defaultdict(int), {}
        taken = {row["id"] for row in merged.values()}
        for row in rows:
            key = row["name"], count[row["name"]]
            count[row["name"]] += 1
            if key not in merged:
                merged[key] = row | {"id": next(fresh) if row["id"] in taken else row["id"]}
            ids[row["id"]] = merged[key]["id"]
        new_ids.append(ids)
    names = {row["id"]: row["name"] for row in merged.values()}
    warnings = list(filter(None, map(_describe_difference, paths, new_ids, [names] * len(paths))))
    counters.warnings += warnings[:MAX_WARNINGS]
    if len(warnings) > MAX_WARNINGS:
        counters.warnings.append(f"the classes of {len(warnings) - MAX_WARNINGS} more annotation files differ too")
    return sorted(merged.values(), key=lambda row: row["id"]), new_ids


def _describe_difference(path, ids, names):
    lacking = [name for new, name in names.items() if new not in ids.values()]
    moved = [f"{show(names[new])} is {old} there and {new} in the records" for old, new in ids.items() if old != new]
    parts = [f"it lacks {listed(lacking)}, so its images count as without them"] if lacking else []
    parts += [f"category ids: {listed(moved)}"] if moved else []
    return f"{path} has other classes than all files together: {'; '.join(parts)}" if parts else ""


def _merge_images(contents, folders, counters):
    """Returns the images of all files, for each file the new id of each image id, and {id: other entries of the image}.

    Entries without a usable id stay as they are: `coco.check_images` rejects them.
    """
    fresh = coco.unused_ids([entry for content in contents for entry in content["images"]])
    merged, new_ids, known, taken, shared = [], [], {}, set(), {}
    for content, folder in zip(contents, folders, strict=True):
        ids, own = {}, {}
        for entry in content["images"]:
            if not isinstance(entry, dict) or type(entry.get("id")) not in (int, str):
                merged.append(entry)
                continue
            old, file = entry["id"], _file_of(entry, folder)
            if old not in ids and file in known:
                ids[old] = known[file]
                shared.setdefault(known[file], []).append(entry)
                counters.count("images_united")
                continue
            if old not in ids:
                kept = type(old) is int and old not in taken
                ids[old] = old if kept else next(fresh)
                counters.count("image_ids_renumbered", not kept)
            entry["id"] = ids[old]
            if file:
                own.setdefault(file, ids[old])
            merged.append(entry)
        known |= own
        taken.update(ids.values())
        new_ids.append(ids)
    for entry in merged:
        if isinstance(entry, dict) and type(entry.get("id")) is int:
            for other in shared.get(entry["id"], ()):
                lvis.unite(entry, other)
    return merged, new_ids, shared


def _file_of(entry, folder):
    """Identifies the file of an image, to find it in other annotation files; None if the entry names none."""
    name = entry.get("file_name") or entry.get("coco_url")
    return (folder, name, str(entry.get("height")), str(entry.get("width"))) if isinstance(name, str) else None


def _describe_object(entry):
    """Returns a text that is the same for equal objects, without their ids and areas: 1 is 1.0, and no mask is []."""
    try:
        text = json.dumps([entry.get(key) or None for key in coco.OBJECT_KEYS if key not in ("id", "area")])
        return json.dumps(json.loads(text, parse_int=float))
    except RecursionError:  # `coco.check_annotations` rejects lists that are nested so deeply
        return str(id(entry))


def _renumber(entry, image_ids, class_ids, path):
    """Gives an annotation the new ids; returns False if it has no ids, so that `coco.check_annotations` rejects it.

    Raises:
        Rejected: It has ids that its own file does not define, and another might.
    """
    if not isinstance(entry, dict) or type(entry.get("image_id")) not in (int, str):
        return False
    if entry["image_id"] not in image_ids:
        raise Rejected("image_unknown", f"image_id {show(entry['image_id'])} is not among the images of {path}")
    entry["image_id"] = image_ids[entry["image_id"]]
    category = entry.get("category_id")
    if type(category) is int:
        if category not in class_ids:
            detail = f"category_id {show(category)} is not defined by the categories of {path}"
            raise Rejected("category_unknown", detail)
        entry["category_id"] = class_ids[category]
    return True
