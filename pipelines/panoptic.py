"""COCO panoptic file: for each image the PNG of segments, and the stuff-thing label of each segment.

`pipelines.stuff` draws label maps from the result. Labels are COCO-stuff's stuff-thing labels: category id - 1. COCO's
panoptic set merges some stuff classes under new ids (184 tree-merged ... 200 rug-merged); each becomes the class that
it is named after (169 tree). Format: https://cocodataset.org/#format-data, 4. Panoptic Segmentation.
"""

from pathlib import PurePosixPath
from typing import Any

from htc_tf.data.annotations import as_integer
from htc_tf.errors import UserError

from . import coco
from .checks import Counters, encodable, show
from .file_names import MAX_LENGTH

IGNORED_LABEL = 255
# Merged panoptic class -> id of the COCO-stuff class of that name (cocodataset/panopticapi's categories and
# nightrome/cocostuff's labels.txt).
COCO_STUFF_IDS = {
    "tree-merged": 169,
    "fence-merged": 113,
    "ceiling-merged": 102,
    "sky-other-merged": 157,
    "cabinet-merged": 98,
    "table-merged": 165,
    "floor-other-merged": 115,
    "pavement-merged": 140,
    "mountain-merged": 135,
    "grass-merged": 124,
    "dirt-merged": 111,
    "paper-merged": 139,
    "food-other-merged": 121,
    "building-other-merged": 96,
    "rock-merged": 150,
    "wall-other-merged": 173,
    "rug-merged": 152,
}


def read(path: str, counters: Counters) -> dict[int, dict[str, Any]]:
    """Reads a panoptic file.

    Returns:
        {image id: {"file_name", "labels": {segment id: label}}}, or {image id: {"error"}} for unusable entries.
    Raises:
        UserError: The file cannot be read, or is not a panoptic file.
    """
    content = coco.read(path, counters, "--stuff", ("annotations", "categories"), may_be_empty=())
    # Repeated names do not matter here, because labels follow the ids.
    labels = label_categories(coco.check_categories(content["categories"], path, Counters(), "--stuff"), path)
    entries = {}
    for place, entry in enumerate(content["annotations"]):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image_id) is not int:
            raise UserError(
                f"--stuff {path}: annotations[{place}] has no integer image_id, as the images of --annotations have"
                f"{coco.describe_found(entry, 'image_id')}"
            )
        if image_id in entries:
            entries[image_id] = {"error": "listed twice by the panoptic file"}
        else:
            entries[image_id] = _segments(entry, labels)
    return entries


def label_categories(categories: list[dict[str, Any]], path: str) -> dict[int, int]:
    """Returns {category id: label}, labels 0 ... 254."""
    labels = {row["id"]: COCO_STUFF_IDS.get(row["name"], row["id"]) - 1 for row in categories}
    wrong = [category for category, label in labels.items() if not 0 <= label < IGNORED_LABEL]
    if wrong:
        raise UserError(
            f"--stuff {path}: category id {wrong[0]} is out of range; ids must be from 1 to {IGNORED_LABEL}"
        )
    return labels


def _segments(entry, labels):
    name, segments = entry.get("file_name"), entry.get("segments_info")
    path = PurePosixPath(name) if isinstance(name, str) and 0 < len(name) <= MAX_LENGTH else None
    if path is None or "\0" in name or encodable(name) != name or path.is_absolute() or ".." in path.parts:
        return {"error": f"the panoptic file's file_name {show(name)} names no file in its folder"}
    if not (
        isinstance(segments, list)
        and all(isinstance(row, dict) and type(row.get("id")) is int and 0 <= row["id"] < 1 << 24 for row in segments)
    ):
        return {"error": f"{name}: segments_info is not a list of segments with integer ids below 256 cubed"}
    used = [as_integer(row.get("category_id")) for row in segments]
    unknown = [row.get("category_id") for row, category in zip(segments, used, strict=True) if category not in labels]
    if unknown:
        return {"error": f"{name}: the panoptic file's categories do not define category_id {show(unknown[0])}"}
    found = {}
    for row, category in zip(segments, used, strict=True):
        if found.setdefault(str(row["id"]), labels[category]) != labels[category]:
            return {"error": f"{name}: segments_info lists the id {row['id']} twice, with different categories"}
    return {"file_name": name, "labels": found}
