"""Label Studio's export "JSON": a list of tasks, each with an image and the annotations that users submitted.

Coordinates are in percent of the image. Format: https://labelstud.io/guide/task_format.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..checks import Rejected, show
from ..file_names import IMAGE_SUFFIXES
from . import brush, documents, image_files, outlines
from .labeled import LabeledImage, LabeledObject

ENDINGS = (".json",)
IGNORED = ()
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio puts it in front of an uploaded file's name
IMAGE_KEYS = ("image", "img", "picture", "photo", "url")  # of a task's data, in the templates
LOCAL_FILES = "/data/local-files/"
MAX_PARTS = 8  # last names of an image's path
MAX_PERCENT = 1e6


def read(path: Path, images: Path) -> Iterator[LabeledImage | Rejected]:
    """Yields the images of a file."""
    tasks = documents.read_json(path)
    if isinstance(tasks, dict):  # one task, as a storage holds them
        tasks = [tasks]
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise Rejected("file_malformed", "it is not a list of Label Studio's tasks")
    if not any("data" in task for task in tasks):
        raise Rejected("file_malformed", "its tasks have no 'data': choose the export JSON, not JSON-MIN or another")
    for place, task in enumerate(tasks):
        try:
            yield read_task(task, path, images)
        except Rejected as error:
            yield Rejected(error.reason, f"task {show(task.get('id', f'at {place}'))}: {error.detail}")


def read_task(task: dict[str, Any], path: Path, images: Path) -> LabeledImage:
    """Returns the image of a task of a file, with the objects of one annotation."""
    name = find_image(task.get("data"), path.parent, images)
    results, others = choose_annotation(task)
    problems = [f"{name}: {others} further annotations of the task"] if others else []
    sized = [row for row in results if isinstance(row, dict) and row.get("original_width") is not None]
    if sized:
        sides = {key: sized[0].get(key) for key in ("original_height", "original_width")}
        height, width = image_files.stated_size(images / name, **sides)
    else:
        height, width = image_files.read_size(images / name)
    found, kinds = [], Counter()
    labeled = {row["id"] for row in results if own_labels(row) and isinstance(row.get("id"), str)}
    for number, row in enumerate(results):
        entry = f"{name}: result {number}"
        try:
            if not isinstance(row, dict) or not isinstance(row.get("value", {}), dict):
                raise Rejected("annotation_malformed", "has no value")
            value, kind = row.get("value", {}), row.get("type")  # a relation of two results has no value
            shape = next((read for key, read in READERS.items() if key in value), None)
            if shape is None:
                kinds[show(kind)] += 1
                continue
            label = find_label(row, labeled)
            if label is None:
                continue  # the shape of a region whose label is another result
            if row.get("image_rotation"):
                raise Rejected(
                    "polygon_malformed", f"the image is turned by {show(row['image_rotation'])}: turn its file"
                )
            segmentation = outlines.join([shape(value, height, width)], height, width)
            found.append(LabeledObject(label, segmentation, place=f"{path}: {entry}"))
        except Rejected as error:
            problems.append(f"{entry}: {error.detail}")
    if kinds:
        counts = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
        problems.append(f"{name}: results without an area: {counts}")
    return LabeledImage(name, height, width, found, problems)


def choose_annotation(task: dict[str, Any]) -> tuple[list[Any], int]:
    """Returns the results of one annotation, the ground truth or else the newest, and the number of the others.

    A canceled (skipped) annotation does not count; nor do predictions, which nobody has checked.
    """
    rows = task.get("annotations", task.get("completions"))  # the second in old versions
    if rows is not None and not isinstance(rows, list):
        raise Rejected("annotation_malformed", f"annotations are {show(rows)}, not a list")
    rows = [row for row in rows or () if isinstance(row, dict) and isinstance(row.get("result"), list)]
    valid = [row for row in rows if not row.get("was_cancelled") and not row.get("skipped")]
    if not valid:
        reason = "all of its annotations are canceled" if rows else "it has no annotation"
        predictions = "; its predictions are no ground truth" if task.get("predictions") else ""
        raise Rejected("annotation_malformed", reason + predictions)
    best = max(
        range(len(valid)),
        key=lambda place: (
            bool(valid[place].get("ground_truth")),
            str(valid[place].get("updated_at") or valid[place].get("created_at") or ""),  # ISO 8601, in UTC
            place,
        ),
    )
    return valid[best]["result"], len(valid) - 1


def find_image(data: Any, folder: Path, images: Path) -> str:
    """Returns the image that a task's data name, relative to `images`."""
    if not isinstance(data, dict):
        raise Rejected("image_malformed", f"data are {show(data)}, not an object with the image's name")
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    named = [texts[key] for key in IMAGE_KEYS if key in texts][:1]
    named = named or [value for value in texts.values() if path_of(value).lower().endswith(IMAGE_SUFFIXES)]
    if len(named) != 1:
        raise Rejected("image_malformed", f"its data name {len(named)} images: one is needed")
    path = path_of(named[0])
    if not path:
        raise Rejected("image_malformed", f"the image is {show(named[0])}, not the name of a file")
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part.strip("./")][-MAX_PARTS:]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    for name in [*tails, *(UPLOADED.sub("", tail) for tail in tails[-1:])]:
        for place in (images, images / "images", folder, folder / "images"):
            if os.path.isfile(os.path.join(place, name)):
                return image_files.find_image(name, place, images)
    return image_files.find_image(UPLOADED.sub("", parts[-1]) if parts else path, folder, images)


def path_of(reference: str) -> str:
    """Returns the path in a reference to an image; "" for an image that the task itself contains.

    References are /data/upload/PROJECT/HASH-NAME, /data/local-files/?d=PATH, URLs of the web or of a store, and paths.
    """
    try:
        parts = urlsplit(reference)
    except ValueError:
        return reference
    if parts.scheme == "data":
        return ""
    if parts.path.endswith(LOCAL_FILES) or parts.path.endswith(LOCAL_FILES[:-1]):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path) if parts.netloc or reference.startswith("/data/") else reference


def find_label(row: dict[str, Any], labeled: set[str]) -> str | None:
    """Returns the label of a shape; None if another result of its region has it."""
    names = own_labels(row)
    if not names and isinstance(row.get("id"), str) and row["id"] in labeled:
        return None
    if len(names) == 1 and not isinstance(names[0], str):
        raise Rejected("annotation_malformed", f"its label is {show(names[0])}, not a text in quotes")
    if len(names) != 1 or not names[0].strip():
        raise Rejected("annotation_malformed", f"its labels are {show(names)}: one is needed")
    return names[0].strip()


def own_labels(row: Any) -> list[Any]:
    """Returns the labels in a result's value, which stand under its type: polygonlabels, brushlabels, labels, ..."""
    value, kind = (row.get("value"), row.get("type")) if isinstance(row, dict) else (None, None)
    labels = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) and kind.endswith("labels") else None
    return labels if isinstance(labels, list) else []


def read_polygon(value, height, width):
    points = value["points"]
    if not outlines.are_points(points):
        raise Rejected("polygon_malformed", "points are not a list of [x, y]")
    if len(points) < 3:
        raise Rejected("polygon_malformed", f"a polygon of {len(points)} points: it needs 3")
    return pixels([number for point in points for number in point], height, width)


def read_rectangle(value, height, width):
    """Returns the corners of a rectangle, turned about its top left one."""
    left, top, wide, high = pixels([value.get(key) for key in ("x", "y", "width", "height")], height, width)
    return outlines.rotate(outlines.rectangle(left, top, left + wide, top + high), angle(value), left, top)


def read_ellipse(value, height, width):
    x, y, radius_x, radius_y = pixels([value.get(key) for key in ("x", "y", "radiusX", "radiusY")], height, width)
    if min(radius_x, radius_y) <= 0:
        raise Rejected("polygon_malformed", f"its radii are {radius_x:g} and {radius_y:g}")
    return outlines.ellipse(x, y, radius_x, radius_y, angle(value))


def read_brush(value, height, width):
    if value.get("format", "rle") != "rle":
        raise Rejected("rle_malformed", f"its format is {show(value['format'])}, not rle")
    return outlines.encode(brush.decode(value["rle"], height, width))


# By a key of the value that tells the kind of shape.
READERS = {"rle": read_brush, "points": read_polygon, "radiusX": read_ellipse, "height": read_rectangle}


def pixels(percent, height, width):
    """Converts percent of the width and of the height, in turn, to pixels."""
    if not all(type(number) in (int, float) and abs(number) <= MAX_PERCENT for number in percent):
        raise Rejected("polygon_malformed", "coordinates are not numbers, or far outside of the image")
    sizes = (width, height) * (len(percent) // 2)
    found = [number * size / 100 for number, size in zip(percent, sizes, strict=True)]
    outlines.check_numbers(found, height, width)
    return found


def angle(value):
    """Returns the rotation in radians, clockwise."""
    degrees = value.get("rotation") or 0
    if type(degrees) not in (int, float) or not abs(degrees) <= 360:
        raise Rejected("polygon_malformed", f"rotation is {show(degrees)}")
    return math.radians(degrees)
