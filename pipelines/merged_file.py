"""`annotations.json`: the records' ground truth as one COCO file, written if the records differ from any input file.

If several files are merged, or image ids are names, evaluation by other programs needs a file with the records' ids. It
holds the images and objects of the records. Boxes and masks are as in the input, not clipped; boxes and areas that the
input lacks, and all boxes with --boxes mask, are those of the records.
"""

import json
from collections.abc import Iterator
from typing import Any

from htc_tf.data.annotations import lacks_box

from . import files, objects
from .checks import Counters
from .plan import Plan, read_lines

FILE = "annotations.json"


def write(output: str, plan: Plan, sidecars: list[dict[str, Any]]) -> None:
    """Writes the file, unless it has the same content already.

    Args:
        output: The folder of the records.
        plan: The plan.
        sidecars: The sidecars of all shards, which name the rejected images and annotations.
    """
    path = files.join(output, FILE)
    if not _holds(path, _encode(output, plan, sidecars)):
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            file.writelines(_encode(output, plan, sidecars))


def _holds(path: str, parts: Iterator[bytes]) -> bool:
    """Returns True if the file exists and consists of these parts."""
    if files.size(path) is None:
        return False
    with files.open_to_read(path) as file:
        return all(file.read(len(part)) == part for part in parts) and not file.read(1)


def _encode(output: str, plan: Plan, sidecars: list[dict[str, Any]]) -> Iterator[bytes]:
    """Yields the file in parts, so that the memory does not grow with the dataset."""
    for key, rows in (
        ("images", (line["image"] for line in _lines(output, plan, sidecars))),
        ("annotations", _annotations(output, plan, sidecars)),
        ("categories", plan.categories),
    ):
        opening = "{" if key == "images" else ","
        yield f'{opening}\n"{key}": ['.encode()
        for number, row in enumerate(rows):
            yield f"{',' if number else ''}\n{json.dumps(row)}".encode()
        yield b"]"
    yield b"}\n"


def _annotations(output, plan, sidecars):
    rejected = {
        (row["image_id"], row["annotation_id"])
        for sidecar in sidecars
        for row in sidecar["rejected"]
        if row.get("annotation_id") is not None
    }
    for line in _lines(output, plan, sidecars):
        image_id = line["image"]["id"]
        for item in line["objects"]:
            if (image_id, item["id"]) not in rejected:
                yield {"image_id": image_id} | _with_computed(item, line["image"], plan)


def _with_computed(item, image, plan):
    """Returns an object of the plan, with the box and the area of its record where the record's are computed."""
    boxes, height, width = plan.options["boxes"], image["height"], image["width"]
    from_mask = boxes == "mask" or lacks_box(item)
    if not from_mask and not objects.lacks_area(item):
        return item
    made = objects.convert(item, "", height, width, plan.masks, Counters(), boxes)
    left, top = made.xmin * width, made.ymin * height
    computed = [left, top, made.xmax * width - left, made.ymax * height - top]
    return item | {"bbox": computed if from_mask else item["bbox"], "area": made.area}


def _lines(output, plan, sidecars):
    """Yields the lines of the images that have a record."""
    for shard, sidecar in enumerate(sidecars):
        rejected = {row["image_id"] for row in sidecar["rejected"] if row.get("annotation_id") is None}
        for line in read_lines(output, shard):
            if line["image"]["id"] not in rejected:
                yield line
