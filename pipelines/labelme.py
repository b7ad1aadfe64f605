"""LabelMe's JSON files, one per image, read as images and objects in COCO's terms.

Format: https://github.com/wkentaro/labelme. `pipelines.to_coco` writes the result.
"""

import base64
import binascii
import io
import math
import os
from collections import Counter
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from htc_tf.data import annotations
from htc_tf.errors import UserError
from pipelines import file_names, objects
from pipelines.checks import Counters, Rejected, show
from pipelines.plan import Options

IGNORED = ("_background_", "__ignore__")  # LabelMe's labels of what is no object
MIN_CORNERS = 12  # of the polygon that stands for a circle


def read(path: Path, images: Path) -> tuple[dict[str, Any], list[tuple[str, Any]], list[str]]:
    """Reads a file. Shapes of the same label and group are one object.

    Args:
        path: The file.
        images: The folder that holds the image, and that file names are relative to.
    Returns:
        (image, objects, problems): COCO's image without an id; the (label, segmentation) of each object; a text for
        each shape that is left out.
    Raises:
        Rejected: The file cannot be used.
    """
    try:
        with path.open("rb") as file:
            content = annotations.load(file, "it", Counter())
    except (UserError, OSError) as error:
        raise Rejected("file_malformed", str(error)) from None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise Rejected("file_malformed", "it is not a file of LabelMe: it has no list 'shapes'")
    image = find_image(content.get("imagePath"), path.parent, images)
    height, width = find_size(content, images / image)
    parts, problems = {}, []
    for place, shape in enumerate(content["shapes"]):
        try:
            label, group, part = read_shape(shape, height, width)
        except Rejected as error:
            problems.append(f"shapes[{place}]: {error.detail}")
        else:
            parts.setdefault((label, place if group is None else f"group {group}"), []).append(part)
    found = [(label, join(shapes, height, width)) for (label, _), shapes in parts.items()]
    return {"file_name": image, "height": height, "width": width}, found, problems


def find_image(name: Any, folder: Path, images: Path) -> str:
    """Returns the path of the image relative to `images`; if it is not where imagePath says, of one with its name.

    The file's name may differ in case and in the Unicode form of accents: IMG_1.JPG for IMG_1.jpg.
    """
    if not isinstance(name, str) or not name.strip():
        raise Rejected("image_missing", f"imagePath is {show(name)}, not the name of an image")
    named = PureWindowsPath(name)  # its separators are \ and /
    for place, wanted in ((folder, named.as_posix()), (folder, named.name), (images, named.name)):
        path = place / file_names.resolve(str(place), wanted, Counters())
        if os.path.isfile(path):
            relative = os.path.relpath(path, images)
            if relative.split(os.sep)[0] != os.pardir:
                return Path(relative).as_posix()
            raise Rejected("image_outside_root", f"{path} is outside of {images}: name its folder by --images")
    raise Rejected("image_missing", f"the image {show(name)} is missing, both beside the file and in {images}")


def find_size(content: dict[str, Any], path: Path) -> tuple[int, int]:
    """Returns the height and width that the file gives, which the preparation compares with the image, or the image's.

    LabelMe applies the EXIF orientation; so does the image's size here.
    """
    size = content.get("imageHeight"), content.get("imageWidth")
    if size == (None, None):
        try:
            with PIL.Image.open(path) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # quarter turns
                size = image.size if turned else image.size[::-1]
        except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise Rejected("image_unreadable", f"{path} cannot be read ({error})") from None
    if not all(type(side) is int and side > 0 for side in size):
        raise Rejected("file_malformed", f"imageHeight and imageWidth are {show(size[0])} and {show(size[1])}")
    if size[0] * size[1] > Options.max_pixels:
        raise Rejected("image_too_large", f"{size[1]} x {size[0]} are more than {Options.max_pixels:,} pixels")
    return size


def read_shape(shape: Any, height: int, width: int) -> tuple[str, int | str | None, Any]:
    """Returns the label, the group or None, and a polygon [x1, y1, ...] or run lengths."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise Rejected("annotation_malformed", "has no label")
    group = shape.get("group_id")
    if group is not None and type(group) not in (int, str):
        raise Rejected("annotation_malformed", f"group_id is {show(group)}")
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(kind, str) or kind not in READERS:
        raise Rejected("annotation_malformed", f"a {show(kind)} has no area: draw one of {', '.join(READERS)}")
    if not (isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)):
        raise Rejected("polygon_malformed", "points are not a list of [x, y]")
    numbers = [value for point in points for value in point]
    limit = 2 * max(height, width)  # also keeps pycocotools from drawing for minutes
    if not all(type(value) in (int, float) and abs(value) <= limit for value in numbers):
        raise Rejected("polygon_malformed", f"points are not numbers, or far outside of {width} x {height} pixels")
    needed = 3 if kind == "polygon" else 2
    if len(points) < needed:
        raise Rejected("polygon_malformed", f"a {kind} of {len(points)} points: it needs {needed}")
    return shape["label"].strip(), group, READERS[kind](numbers, shape, height, width)


def read_polygon(numbers, shape, height, width):
    return numbers


def read_rectangle(numbers, shape, height, width):
    if len(numbers) != 4:  # newer versions store the four corners
        return numbers
    x1, y1, x2, y2 = numbers
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def read_circle(numbers, shape, height, width):
    """Returns a polygon that is less than a pixel from the circle around the first point through the second."""
    x, y, edge_x, edge_y = numbers[:4]
    radius = math.hypot(edge_x - x, edge_y - y)
    corners = max(MIN_CORNERS, math.ceil(math.pi / math.acos(1 - 1 / radius))) if radius > 1 else MIN_CORNERS
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).ravel().tolist()


def read_mask(numbers, shape, height, width):
    """Returns the run lengths of a mask that is stored as a PNG of its box, whose corners are the two points."""
    left, top, right, bottom = map(int, numbers[:4])
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise Rejected("polygon_malformed", f"a mask in the box {numbers} of an image of {width} x {height}")
    try:
        with PIL.Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))) as image:
            if image.size != (right - left + 1, bottom - top + 1):
                raise Rejected("polygon_malformed", f"a mask of {image.size} pixels in the box {numbers}")
            pixels = np.asarray(image) > 0
    except (OSError, ValueError, TypeError, SyntaxError, binascii.Error, PIL.Image.DecompressionBombError) as error:
        raise Rejected("polygon_malformed", f"its mask is not a PNG in base64 ({error})") from None
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[top : bottom + 1, left : right + 1] = pixels if pixels.ndim == 2 else pixels.any(axis=2)
    return as_text(coco_mask.encode(whole))


READERS = {"polygon": read_polygon, "rectangle": read_rectangle, "circle": read_circle, "mask": read_mask}


def join(parts: list[Any], height: int, width: int) -> Any:
    """Returns the segmentation of an object's parts: their polygons, or run lengths if a part is a mask."""
    polygons, masks = ([part for part in parts if isinstance(part, kind)] for kind in (list, dict))
    if not masks:
        return polygons
    if polygons:
        masks.append({"size": [height, width], "counts": objects.to_rle(polygons, height, width, Counters())})
    return as_text(coco_mask.merge(masks))


def as_text(encoded: dict[str, Any]) -> dict[str, Any]:
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}
