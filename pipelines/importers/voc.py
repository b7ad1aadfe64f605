"""Pascal VOC's XML files, one per image, with the masks of SegmentationObject where they exist.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. Pixels count from 1, and xmax and ymax belong to
the box. Masks are matched with the objects of the XML file by their boxes.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from ..checks import Rejected, show
from . import documents, image_files, outlines
from .labeled import LabeledImage, LabeledObject

ENDINGS = (".xml",)
IGNORED = ()
EDGES = ("xmin", "ymin", "xmax", "ymax")
COORDINATE = re.compile("[xy][0-9]+")  # the names of a polygon's numbers
SPLITS = ("train", "val", "test")  # files of ImageSets
MASKS = "SegmentationObject"
VOID, VOID_COLOR = 255, 0xE0E0C0  # the border between objects, in a palette and as a color
MAX_MASKS = 255  # of an image
MIN_IOU = 0.5  # of a mask's box and the box of its object


def read(path: Path, images: Path) -> Iterator[LabeledImage]:
    """Yields the image of a file. Difficult objects are crowd regions, which training and evaluation ignore."""
    root = documents.read_xml(path)
    if root.tag != "annotation":
        raise Rejected("file_malformed", f"it is not a file of Pascal VOC: its root is <{show(root.tag)}>")
    name = find_image(root.findtext("filename"), path, images)
    try:
        height, width = (int(root.findtext(f"size/{side}", "")) for side in ("height", "width"))
        stated = height > 0 and width > 0
    except ValueError:
        stated = False
    if stated:
        image_files.check_size(height, width)
        image_files.compare_size(os.path.join(images, name), height, width)
    else:
        height, width = image_files.read_size(os.path.join(images, name))
    found, problems = [], []
    for place, element in enumerate(root.findall("object")):
        try:
            row = read_object(element, height, width)
            found.append(row._replace(place=f"{path}: object[{place}]"))
        except Rejected as error:
            problems.append(f"object[{place}]: {error.detail}")
    folder = path.parent.parent
    masked = (folder / MASKS).is_dir()
    if masked:
        found = add_masks(found, folder / MASKS / f"{path.stem}.png", height, width, problems)
    yield LabeledImage(name, height, width, found, problems, _splits(str(folder), masked).get(path.stem))


def holds_labels(path: Path) -> bool:
    return path.parent.name in ("SegmentationClass", MASKS)


def find_image(stated, path, images):
    """Returns the image's path relative to `images`: of the stated name, or of the XML file's own."""
    places = [place for name in ("JPEGImages", "images") if (place := path.parent.parent / name).is_dir()]
    for place in [*places, path.parent]:
        try:
            return image_files.find_image(stated, place, images, "filename")
        except Rejected as error:
            if error.reason != "image_missing":
                raise
            missing = error
    name = image_files.find_by_stem(path.stem, [*places, path.parent, images], images)
    if name is None:
        raise missing
    return name


def read_object(element, height, width):
    label = element.findtext("name", "").strip()
    if not label:
        raise Rejected("annotation_malformed", "has no name")
    crowd = element.findtext("difficult", "0").strip() == "1"
    polygons = [read_polygon(polygon, height, width) for polygon in element.findall("polygon") if len(polygon)]
    if polygons:
        return LabeledObject(label, polygons, crowd=crowd)
    if (number := len(element.findall("bndbox"))) > 1:
        raise Rejected("box_malformed", f"has {number} bndbox: an object has one")
    xmin, ymin, xmax, ymax = _numbers([element.findtext(f"bndbox/{edge}") for edge in EDGES], "bndbox")
    outlines.check_numbers((xmin, ymin, xmax, ymax), height, width)
    if xmax < xmin or ymax < ymin:
        raise Rejected("box_empty", f"bndbox {show([xmin, ymin, xmax, ymax])}: xmax or ymax is less than xmin or ymin")
    return LabeledObject(label, None, [xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1], crowd)


def read_polygon(polygon, height, width):
    """Returns [x1, y1, ...] of Roboflow's <polygon>, whose children are x1, y1, x2, y2, ..."""
    points = {}
    for child in polygon:
        if COORDINATE.fullmatch(child.tag) and points.setdefault(child.tag, child) is not child:
            raise Rejected("polygon_malformed", f"polygon has {show(child.tag)} more than once")
    for tag in points:
        other = ("y" if tag[0] == "x" else "x") + tag[1:]
        if other not in points:
            raise Rejected("polygon_malformed", f"polygon has {show(tag)} without {show(other)}")
    tags = [f"{axis}{number}" for number in range(1, max(1, len(points) // 2) + 1) for axis in "xy"]
    missing = [tag for tag in tags if tag not in points]
    if missing:
        raise Rejected("polygon_malformed", f"polygon has no {missing[0]}: its points are x1, y1, x2, y2, ...")
    if len(tags) < 6:
        raise Rejected("polygon_malformed", f"a polygon of {len(tags) // 2} points: it needs 3")
    numbers = _numbers([points[tag].text for tag in tags], "polygon")
    outlines.check_numbers(numbers, height, width)
    return numbers


def _numbers(texts, what):
    try:
        return [float(text) for text in texts]
    except (TypeError, ValueError):
        raise Rejected("box_malformed", f"{what} {show(texts)} are not numbers") from None


def add_masks(found: list[LabeledObject], path: Path, height: int, width: int, problems: list[str]):
    """Returns the objects with their masks: each mask belongs to the object whose box overlaps its own most."""
    ids, void = read_ids(path, height, width)
    numbers = [number for number in np.unique(ids).tolist() if number not in (0, void)]
    if len(numbers) > MAX_MASKS:
        raise Rejected(
            "polygon_malformed", f"{path.name} in {MASKS} has {len(numbers):,} colors: expected one an object"
        )
    masks = [outlines.encode(ids == number) for number in numbers]
    boxes = [coco_mask.toBbox(mask).tolist() for mask in masks]
    places = [place for place, row in enumerate(found) if row.box]
    theirs = [found[place].box for place in places]
    overlaps = coco_mask.iou(boxes, theirs, [0] * len(theirs)).tolist() if boxes and theirs else []  # [masks, objects]
    pairs = [(overlap, m, place) for m, row in enumerate(overlaps) for overlap, place in zip(row, places, strict=True)]
    mask_of = {}
    # From the largest overlap to the smallest, so that neither a mask nor an object has two.
    for overlap, m, place in sorted(pairs, reverse=True):
        if overlap >= MIN_IOU and place not in mask_of and m not in mask_of.values():
            mask_of[place] = m
    for m in sorted(set(range(len(masks))) - set(mask_of.values())):
        problems.append(f"{MASKS}/{path.name}: the mask in the box {boxes[m]} is of no object")
    return [
        row._replace(segmentation=masks[mask_of[place]], box=None) if place in mask_of else row
        for place, row in enumerate(found)
    ]


def read_ids(path: Path, height: int, width: int) -> tuple[np.ndarray, int]:
    """Returns [height, width] integers of a PNG, and the void one: 0 is the background; equal numbers are an object."""
    if not path.is_file():
        raise Rejected("mask_missing", f"no {path.name} in {MASKS}")
    try:
        with PIL.Image.open(path, formats=("PNG",)) as image:  # other formats of Pillow start programs, as EPS does
            if image.size != (width, height):
                raise Rejected(
                    "polygon_malformed", f"{MASKS}/{path.name} has {image.size} pixels, not {(width, height)}"
                )
            if image.mode in ("P", "L"):
                return np.asarray(image), VOID
            if image.mode not in ("RGB", "RGBA"):
                raise Rejected(
                    "polygon_malformed", f"{MASKS}/{path.name} is of mode {image.mode}: save it with a palette"
                )
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), -1, 0)
            return red << 16 | green << 8 | blue, VOID_COLOR
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise Rejected("polygon_malformed", f"{MASKS}/{path.name} cannot be read ({error})") from None


@documents.cached(maxsize=64)
def _splits(folder: str, masked: bool) -> dict[str, str]:
    """Returns the split of each image that the lists of ImageSets name."""
    splits = {}
    for kind in ("Segmentation", "Main") if masked else ("Main", "Segmentation"):
        for split in SPLITS:
            path = Path(folder, "ImageSets", kind, f"{split}.txt")
            lines = documents.read_lines(path) if path.is_file() else []
            splits |= {line.split()[0]: split for line in lines if line}
        if splits:
            break
    return splits
