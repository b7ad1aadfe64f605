"""A COCO panoptic file, read: of every image, its PNG of segments and the stuff-thing label of each segment.

Called by `pipelines.plan` where --stuff names a JSON file; `pipelines.stuff` draws the label maps from it. Labels are
those of COCO-stuff's stuff-thing maps: category id - 1. COCO's panoptic set has merged some stuff classes of COCO-stuff
under new ids (184 tree-merged ... 200 rug-merged); such a class becomes the one that it is named after (169 tree).
Format: https://cocodataset.org/#format-data, 4. Panoptic Segmentation.
"""

from pathlib import PurePosixPath
from typing import Any

from htc_tf.data.annotations import as_integer
from htc_tf.errors import UserError
from pipelines import coco
from pipelines.checks import Tally, encodable, show

IGNORED_LABEL = 255
# Merged panoptic class -> the id of the COCO-stuff class whose name it carries (cocodataset/panopticapi's categories,
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


def read(path: str, tally: Tally) -> dict[int, dict[str, Any]]:
    """By image id: {"file_name", "labels": {segment id: label}}, or {"error"} where an entry cannot be used.

    What has only one reading is repaired and tallied.

    Raises:
      UserError: the file cannot be read or is no panoptic file.
    """
    content = coco.read(path, tally, "--stuff", ("annotations", "categories"))
    # Names that occur twice are no matter here: a label is the category's id.
    labels = label_categories(coco.check_categories(content["categories"], path, Tally(), "--stuff"), path)
    entries = {}
    for place, entry in enumerate(content["annotations"]):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image_id) is not int:
            raise UserError(
                f"--stuff {path}: annotations[{place}] has no integer image_id, as the images of --annotations have"
                f"{coco.describe_found(entry, 'image_id')}"
            )
        twice = image_id in entries
        entries[image_id] = {"error": "listed twice by the panoptic file"} if twice else _segments(entry, labels)
    return entries


def label_categories(categories: list[dict[str, Any]], path: str) -> dict[int, int]:
    """Category id -> label, 0 ... 254."""
    labels = {row["id"]: COCO_STUFF_IDS.get(row["name"], row["id"]) - 1 for row in categories}
    wrong = [category for category, label in labels.items() if not 0 <= label < IGNORED_LABEL]
    if wrong:
        raise UserError(f"--stuff {path}: category id {wrong[0]} makes no label; ids must be from 1 to {IGNORED_LABEL}")
    return labels


def _segments(entry, labels):
    name, segments = entry.get("file_name"), entry.get("segments_info")
    path = PurePosixPath(name) if isinstance(name, str) and name else None
    if path is None or "\0" in name or encodable(name) != name or path.is_absolute() or ".." in path.parts:
        return {"error": f"the panoptic file's file_name {show(name)} names no file in its folder"}
    if not (
        isinstance(segments, list)
        and all(isinstance(row, dict) and type(row.get("id")) is int and 0 <= row["id"] < 1 << 24 for row in segments)
    ):
        return {"error": f"{name}: segments_info is no list of segments with an integer id below 256 cubed"}
    used = [as_integer(row.get("category_id")) for row in segments]
    unknown = [row.get("category_id") for row, category in zip(segments, used, strict=True) if category not in labels]
    if unknown:
        return {"error": f"{name}: the panoptic file's categories do not define category_id {show(unknown[0])}"}
    return {"file_name": name, "labels": {str(row["id"]): labels[used[i]] for i, row in enumerate(segments)}}
