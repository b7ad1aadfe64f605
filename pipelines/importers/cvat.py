"""CVAT's XML files: "CVAT for images 1.1", and "CVAT for video 1.1" of videos exported with their frames.

Format: https://docs.cvat.ai/docs/dataset_management/formats/xml_format/.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ..checks import Rejected, show
from . import documents, image_files, outlines
from .labeled import LabeledImage

ENDINGS = (".xml",)
IGNORED = ()
FRAME = "frame_{:06d}"  # name of a video's frame
FRAME_ENDINGS = (".png", ".PNG", ".jpg", ".jpeg")
CROWD = ("is_crowd", "iscrowd")  # attribute of objects that CVAT has from COCO's files
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}  # by the subset in a project


def read(path: Path, images: Path) -> Iterator[LabeledImage | Rejected]:
    """Yields the images of a file. Shapes of the same label and group are one object."""
    root = documents.read_xml(path)
    if root.tag != "annotations" or (root.find("image") is None and root.find("track") is None):
        raise Rejected("file_malformed", 'it is not a file of "CVAT for images 1.1": it has no image in <annotations>')
    for element in root.iterfind("image"):
        name = element.get("name")
        try:
            image = find_image(name, element.get("subset") or "", path.parent, images)
            split = SPLITS.get((element.get("subset") or "").lower())
            size = image_files.stated_size(images / image, height=element.get("height"), width=element.get("width"))
            yield collect(path, image, *size, list(element), split)
        except Rejected as error:
            yield Rejected(error.reason, f"the image {show(name)}: {error.detail}")
    if root.find("track") is not None:
        yield from read_video(root, path, images)


def read_video(root: Element, path: Path, images: Path) -> Iterator[LabeledImage | Rejected]:
    """Yields the frames with objects of a file with tracks, which names no images."""
    frames = {}
    for track in root.iterfind("track"):
        for shape in track:
            if shape.get("outside") != "1":  # of the frame
                shape.attrib.setdefault("label", track.get("label") or "")
                frames.setdefault(shape.get("frame") or "", []).append(shape)
    size = root.find("meta/task/original_size")
    if size is not None:
        size = image_files.whole_size(height=size.findtext("height"), width=size.findtext("width"))
    missing = []
    for number, shapes in frames.items():
        try:
            frame = FRAME.format(integer(number, "the number"))
            image = find_image([frame + ending for ending in FRAME_ENDINGS], "", path.parent, images)
            if size is not None:
                image_files.compare_size(images / image, *size)
            yield collect(path, image, *(size or image_files.read_size(images / image)), shapes, None)
        except Rejected as error:
            problem = Rejected(error.reason, f"frame {show(number)}: {error.detail}")
            if error.reason == "image_missing":
                missing.append(problem.detail)
            else:
                yield problem
    if missing:
        advice = 'export the frames with the annotations, or choose "CVAT for images 1.1"'
        yield Rejected("image_missing", f"{len(missing)} of {len(frames)} frames have no image: {missing[0]}; {advice}")


def find_image(name, subset, folder: Path, images: Path) -> str:
    """Returns the image of a name, or of the first of several; an export holds them in the folder `images`, by subset.

    Raises:
        Rejected: None exists.
    """
    names = name if isinstance(name, list) else [name or ""]
    for place in (images, folder / "images" / subset, folder / "images", images / "images" / subset, images / "images"):
        for each in names:
            if each and os.path.isfile(os.path.join(place, each)):
                return image_files.find_image(each, place, images)
    return image_files.find_image(names[0], folder, images, "name")


def collect(
    path: Path, name: str, height: int, width: int, shapes: Iterable[Element], split: str | None
) -> LabeledImage:
    """Returns an image of a file with the objects of its shapes."""
    parts, crowds, problems, others = {}, set(), [], Counter()
    for place, shape in enumerate(shapes):
        if shape.tag not in READERS:
            others[shape.tag] += 1
            continue
        entry = f"{name}: the {shape.tag} at {place} of its shapes"
        try:
            label = (shape.get("label") or "").strip()
            if not label:
                raise Rejected("annotation_malformed", "has no label")
            part = READERS[shape.tag](shape, height, width)
        except Rejected as error:
            problems.append(f"{entry}: {error.detail}")
            continue
        group = shape.get("group_id") or "0"
        key = label, entry if group == "0" else f"{name}: the {show(label)} of group {group}"
        parts.setdefault(key, []).append(part)
        if any(row.get("name") in CROWD and (row.text or "").lower() in ("true", "1") for row in shape):
            crowds.add(key)
    if others:
        counts = ", ".join(f"{kind} {number}" for kind, number in others.items())
        problems.append(f"{name}: shapes without an area: {counts}")
    found, unjoined = outlines.join_all(parts, path, height, width, crowds)
    return LabeledImage(name, height, width, found, problems + unjoined, split)


def read_box(shape, height, width):
    left, top, right, bottom = numbers(shape, ("xtl", "ytl", "xbr", "ybr"), height, width)
    corners = outlines.rectangle(left, top, right, bottom)
    return outlines.rotate(corners, angle(shape), (left + right) / 2, (top + bottom) / 2)


def read_ellipse(shape, height, width):
    x, y, radius_x, radius_y = numbers(shape, ("cx", "cy", "rx", "ry"), height, width)
    if min(radius_x, radius_y) <= 0:
        raise Rejected("polygon_malformed", f"its radii are {radius_x:g} and {radius_y:g}")
    return outlines.ellipse(x, y, radius_x, radius_y, angle(shape))


def read_polygon(shape, height, width):
    text = shape.get("points") or ""
    try:
        points = [[float(value) for value in point.split(",")] for point in text.split(";")]
    except ValueError:
        raise Rejected("polygon_malformed", f"points are {show(text)}, not x,y;x,y;...") from None
    if len(points) < 3 or any(len(point) != 2 for point in points):
        raise Rejected("polygon_malformed", f"points are {show(text)}, not three or more of x,y;x,y;...")
    polygon = [value for point in points for value in point]
    outlines.check_numbers(polygon, height, width)
    return polygon


def read_mask(shape, height, width):
    """Returns the run lengths of a mask that is stored as those of its box.

    They go along the rows of the box, and alternate between pixels outside and inside, outside first.
    """
    left, top, wide, high = (whole(shape, name) for name in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(wide, high) < 1 or left + wide > width or top + high > height:
        wide, high, left, top = map(show, (wide, high, left, top))
        raise Rejected("rle_malformed", f"a box of {wide} x {high} at {left}, {top} in an image of {width} x {height}")
    text = shape.get("rle") or ""
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        raise Rejected("rle_malformed", f"rle is {show(text)}, not numbers with commas") from None
    if min(counts) < 0 or sum(counts) != wide * high:
        raise Rejected("rle_malformed", f"rle is not the run lengths of {wide} x {high} pixels")
    inside = np.repeat((np.arange(len(counts)) % 2).astype(bool), counts)  # [high * wide], a byte each
    return outlines.encode_crop(inside.reshape(high, wide), top, left, height, width)


READERS = {"box": read_box, "ellipse": read_ellipse, "polygon": read_polygon, "mask": read_mask}


def whole(element, name):
    """Returns an attribute that is an integer."""
    return integer(element.get(name), name)


def integer(text, name):
    try:
        return int(text)
    except (TypeError, ValueError):
        raise Rejected("annotation_malformed", f"{name} is {show(text)}, not an integer") from None


def numbers(shape, names, height, width):
    """Returns attributes that are coordinates."""
    try:
        values = [float(shape.get(name, "nan")) for name in names]
    except ValueError:
        values = [math.nan]
    if any(map(math.isnan, values)):
        raise Rejected("polygon_malformed", f"{', '.join(names)} are not numbers")
    outlines.check_numbers(values, height, width)
    return values


def angle(shape):
    """Returns the rotation in radians, clockwise."""
    try:
        degrees = float(shape.get("rotation", 0))
    except ValueError:
        degrees = math.nan
    if not math.isfinite(degrees):
        raise Rejected("polygon_malformed", f"rotation is {show(shape.get('rotation'))}")
    return math.radians(degrees)
