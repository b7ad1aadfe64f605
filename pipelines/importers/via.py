"""VIA's project files, and its annotations as JSON or CSV: the images and regions of the VGG Image Annotator.

Format: https://www.robots.ox.ac.uk/~vgg/software/via, version 2 and version 1.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from htc_tf.errors import printable

from ..checks import Rejected, show
from . import documents, image_files, outlines
from .labeled import LabeledImage, LabeledObject

ENDINGS = (".json", ".csv")
IGNORED = ("_background_", "__ignore__")
ATTRIBUTES = ("class", "label", "name", "type", "category", "object")  # that may hold the class, in this order
METADATA = "_via_img_metadata"  # key of a project
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
MAX_FIELD = 1 << 27  # characters of a CSV file's field


def read(path: Path, images: Path) -> Iterator[LabeledImage | Rejected]:
    """Yields the images of a file; prints which attribute of the regions is their class."""
    entries = read_csv(path) if path.suffix.lower() == ".csv" else read_json(path)
    attribute = choose_attribute(entries)
    if attribute is not None:
        print(printable(f"{path}: the class of a region is its attribute {show(attribute)}"))
    for key, entry in entries:
        try:
            yield read_image(entry, attribute, path, images)
        except Rejected as error:
            yield Rejected(error.reason, f"{show(key)}: {error.detail}")


def read_json(path: Path) -> list[tuple[str, Any]]:
    """Returns (key, entry) of each image. An entry may be anything; one at least is VIA's, or the file is a project."""
    content = documents.read_json(path)
    is_project = isinstance(content, dict) and METADATA in content
    if is_project:
        content = content[METADATA]
    if is_project and not isinstance(content, (dict, list)):
        raise Rejected("file_malformed", f"it is not a file of VIA 2: its {METADATA} is {show(content)}")
    rows = list(content.items() if isinstance(content, dict) else enumerate(content) if type(content) is list else ())
    if not is_project and not any(isinstance(row, dict) and "filename" in row and "regions" in row for _, row in rows):
        raise Rejected(
            "file_malformed", f"it is not a file of VIA 2: it has no {METADATA}, nor a filename with regions"
        )
    return [(key if isinstance(key, str) else f"[{key}]", row) for key, row in rows]


def read_csv(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns (key, entry) of each image, as a JSON file has them."""
    csv.field_size_limit(MAX_FIELD)
    reader = csv.DictReader(io.StringIO(documents.read_text(path), newline=""))
    entries = {}
    try:
        reader.fieldnames = [name.lstrip("#") for name in reader.fieldnames or ()]  # version 1 writes #filename
        if not set(COLUMNS) <= set(reader.fieldnames):
            raise Rejected("file_malformed", f"it is not a file of VIA: it has no columns {', '.join(COLUMNS)}")
        for row in reader:
            name, *texts = (row[column] for column in COLUMNS)
            regions = entries.setdefault(name, {"filename": name, "regions": []})["regions"]
            shape, attributes = map(_parse, texts)
            if shape != {}:  # of an image without regions
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
    except csv.Error as error:
        raise Rejected("file_malformed", f"line {reader.line_num}: {error}") from None
    return list(entries.items())


def _parse(text):
    """Returns the value of a field; None if it is not JSON, or the row ends before it."""
    try:
        return None if text is None else json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None


def list_regions(entry: Any) -> list[Any]:
    """Returns the regions, which version 1 writes as a dict."""
    if not isinstance(entry, dict):
        raise Rejected("file_malformed", f"the entry is {show(entry)}, not an object")
    if "regions" not in entry:
        raise Rejected("file_malformed", "it has no regions")
    regions = entry["regions"]
    if not isinstance(regions, (dict, list)):
        raise Rejected("file_malformed", f"regions is {show(regions)}, neither a list nor an object")
    return list(regions.values()) if isinstance(regions, dict) else regions


def choose_attribute(entries) -> str | None:
    """Returns the attribute that holds the class; None if no region has any."""
    names = {}
    for _, entry in entries:
        try:
            regions = list_regions(entry)
        except Rejected:  # `read_image` names it
            continue
        for region in regions:
            attributes = region.get("region_attributes") if isinstance(region, dict) else None
            names.update(dict.fromkeys(attributes if isinstance(attributes, dict) else ()))
    for wanted in ATTRIBUTES:
        for name in names:
            if name.strip().casefold() == wanted:
                return name
    if len(names) > 1:
        raise Rejected(
            "file_malformed",
            f"the regions have the attributes {', '.join(map(show, list(names)[:8]))}: rename the one with the class "
            f"to {ATTRIBUTES[0]}",
        )
    return next(iter(names), None)


def read_image(entry: Any, attribute: str | None, path: Path, images: Path) -> LabeledImage:
    regions = list_regions(entry)
    name = image_files.find_image(entry.get("filename"), path.parent, images, "filename")
    height, width = image_files.read_size(images / name)
    found, problems = [], []
    for number, region in enumerate(regions):
        place = f"{show(entry['filename'])}: regions[{number}]"
        try:
            found.append(read_region(region, attribute, height, width)._replace(place=f"{path}: {place}"))
        except Rejected as error:
            problems.append(f"{place}: {error.detail}")
    return LabeledImage(name, height, width, found, problems)


def read_region(region: Any, attribute: str | None, height: int, width: int) -> LabeledObject:
    """Returns the object of a region."""
    parts = [region.get(key) if isinstance(region, dict) else None for key in ("shape_attributes", "region_attributes")]
    shape, attributes = (part if isinstance(part, dict) else {} for part in parts)
    label = attributes.get(attribute)
    if isinstance(label, dict):  # check boxes: {"dog": true}
        chosen = [name for name, checked in label.items() if checked]
        label = chosen[0] if len(chosen) == 1 else None
    if type(label) is int:
        label = str(label)
    if not isinstance(label, str) or not label.strip():
        raise Rejected("annotation_malformed", f"has no class: {show(attribute)} is {show(attributes.get(attribute))}")
    kind = shape.get("name")
    if not isinstance(kind, str) or kind not in READERS:
        raise Rejected("annotation_malformed", f"a {show(kind)} has no area: draw one of {', '.join(READERS)}")
    return LabeledObject(label.strip(), [READERS[kind](shape, height, width)])


def read_polygon(shape, height, width):
    x, y = shape.get("all_points_x"), shape.get("all_points_y")
    if not (isinstance(x, list) and isinstance(y, list) and len(x) == len(y) >= 3):
        raise Rejected("polygon_malformed", "all_points_x and all_points_y are not lists of three numbers or more")
    numbers = [value for point in zip(x, y, strict=True) for value in point]
    outlines.check_numbers(numbers, height, width)
    return numbers


def read_rect(shape, height, width):
    x, y, box_width, box_height = _values(shape, ("x", "y", "width", "height"), height, width)
    return outlines.rectangle(x, y, x + box_width, y + box_height)


def read_circle(shape, height, width):
    x, y, radius = _values(shape, ("cx", "cy", "r"), height, width)
    return outlines.ellipse(x, y, radius, radius)


def read_ellipse(shape, height, width):
    return outlines.ellipse(*_values({"theta": 0, **shape}, ("cx", "cy", "rx", "ry", "theta"), height, width))


def _values(shape, keys, height, width):
    values = [shape.get(key) for key in keys]
    outlines.check_numbers(values, height, width)
    if min(values[2:4]) <= 0:
        raise Rejected("box_empty", f"{' and '.join(keys[2:4])} {show(values[2:4])} must be above 0")
    return values


READERS = {"polygon": read_polygon, "rect": read_rect, "circle": read_circle, "ellipse": read_ellipse}
