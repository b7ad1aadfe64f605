"""LabelMe's JSON files, one per image.

Format: https://github.com/wkentaro/labelme.
"""

import base64
import binascii
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from ..checks import Rejected, show
from . import documents, image_files, outlines
from .labeled import LabeledImage

ENDINGS = (".json",)
IGNORED = ("_background_", "__ignore__")  # LabelMe's labels of what is no object


def read(path: Path, images: Path) -> Iterator[LabeledImage]:
    """Yields the image of a file. Shapes of the same label and group are one object."""
    content = documents.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise Rejected("file_malformed", "it is not a file of LabelMe: it has no list 'shapes'")
    name = image_files.find_image(content.get("imagePath"), path.parent, images, "imagePath")
    sides = {key: content.get(key) for key in ("imageHeight", "imageWidth")}
    if all(side is None for side in sides.values()):
        height, width = image_files.read_size(images / name)  # upright, as LabelMe shows the image
    else:
        height, width = image_files.stated_size(images / name, **sides)
    parts, problems = {}, []
    for place, shape in enumerate(content["shapes"]):
        try:
            label, group, part = read_shape(shape, height, width)
        except Rejected as error:
            problems.append(f"shapes[{place}]: {error.detail}")
        else:
            entry = f"shapes[{place}]" if group is None else f"group {group} of {show(label)}"
            parts.setdefault((label, entry), []).append(part)
    found, others = outlines.join_all(parts, path, height, width)
    yield LabeledImage(name, height, width, found, problems + others)


def read_shape(shape: Any, height: int, width: int) -> tuple[str, int | str | None, Any]:
    """Returns the label, the group or None, and a polygon [x1, y1, ...] or run lengths."""
    label = outlines.read_label(shape)
    group = shape.get("group_id")
    if group is not None and type(group) not in (int, str):
        raise Rejected("annotation_malformed", f"group_id is {show(group)}")
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(kind, str) or kind not in READERS:
        raise Rejected("annotation_malformed", f"a {show(kind)} has no area: draw one of {', '.join(READERS)}")
    if not outlines.are_points(points):
        raise Rejected("polygon_malformed", "points are not a list of [x, y]")
    numbers = list(itertools.chain.from_iterable(points))
    outlines.check_numbers(numbers, height, width)
    needed = 3 if kind == "polygon" else 2
    if len(points) < needed:
        raise Rejected("polygon_malformed", f"a {kind} of {len(points)} points: it needs {needed}")
    return label, group, READERS[kind](numbers, shape, height, width)


def read_polygon(numbers, shape, height, width):
    return numbers


def read_rectangle(numbers, shape, height, width):
    return outlines.rectangle(*numbers) if len(numbers) == 4 else numbers  # newer versions store the four corners


def read_circle(numbers, shape, height, width):
    """Returns the polygon of the circle around the first point through the second."""
    x, y, edge_x, edge_y = numbers[:4]
    radius = math.hypot(edge_x - x, edge_y - y)
    return outlines.ellipse(x, y, radius, radius)


def read_mask(numbers, shape, height, width):
    """Returns the run lengths of a mask that is stored as a PNG of its box, whose corners are the two points."""
    left, top, right, bottom = map(int, numbers[:4])
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise Rejected("polygon_malformed", f"a mask in the box {numbers} of an image of {width} x {height}")
    try:
        data = io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True))
        with PIL.Image.open(data, formats=("PNG",)) as image:  # other formats of Pillow start programs, as EPS does
            if image.size != (right - left + 1, bottom - top + 1):
                raise Rejected("polygon_malformed", f"a mask of {image.size} pixels in the box {numbers}")
            strips = outlines.strips(image.height, image.width)
            parts = (np.asarray(image.crop((first, 0, end, image.height))) > 0 for first, end in strips)
            inside = (part if part.ndim == 2 else part.any(axis=2) for part in parts)
            return outlines.encode_strips(inside, top, left, height, width)
    except (OSError, ValueError, TypeError, SyntaxError, binascii.Error, PIL.Image.DecompressionBombError) as error:
        raise Rejected("polygon_malformed", f"its mask is not a PNG in base64 ({error})") from None


READERS = {"polygon": read_polygon, "rectangle": read_rectangle, "circle": read_circle, "mask": read_mask}
