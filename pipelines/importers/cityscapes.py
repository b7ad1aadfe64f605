"""Cityscapes' gtFine_polygons.json files, one per image.

The polygons are in order of depth: each hides what is below it, so that the mask of an object is what later polygons
leave of its own, as in the *_instanceIds.png of the data set. Format: https://github.com/mcordts/cityscapesScripts.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from htc_tf.data.annotations import MAX_OUTLINE, outline_length

from ..checks import Rejected, show
from . import documents, image_files, outlines
from .labeled import LabeledImage, LabeledObject

ENDINGS = ("_polygons.json",)
IGNORED = ()
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")  # whose instances are evaluated
# The other labels of the data set.
OPTIONAL = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road"),
    *("sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "caravan", "trailer"),
    "license plate",
)
HIDE_NOTHING = ("license plate",)  # part of the object below
GROUP = "group"  # ends the label of a region of several objects: cargroup
NO_GROUP = ("polegroup",)  # a class of its own
LABEL_ENDINGS = ("_color.png", "_instanceIds.png", "_labelIds.png", "_instanceTrainIds.png", "_labelTrainIds.png")
SPLITS = {"train": "train", "train_extra": "train", "val": "val", "test": "test"}  # by the folder


def read(path: Path, images: Path) -> Iterator[LabeledImage]:
    """Yields the image of a file; a group of objects is a crowd region."""
    content = documents.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise Rejected("file_malformed", "it is not a file of Cityscapes: it has no list 'objects'")
    name = find_image(path, images)
    sides = {key: content.get(key) for key in ("imgHeight", "imgWidth")}
    height, width = image_files.stated_size(images / name, **sides)
    drawn, problems, deleted = [], [], 0
    for place, shape in enumerate(content["objects"]):
        if isinstance(shape, dict) and shape.get("deleted"):
            deleted += 1
            continue
        try:
            drawn.append((f"objects[{place}]", *read_shape(shape, height, width)))
        except Rejected as error:
            problems.append(f"objects[{place}]: {error.detail}")
    if deleted:
        problems.append(f"deleted objects: {deleted}")
    found = []
    for (place, label, _), mask in zip(drawn, draw_masks(drawn, height, width), strict=True):
        single = label.removesuffix(GROUP).strip()
        crowd = single not in ("", label) and label not in NO_GROUP
        label = single if crowd else label
        if mask is not None:
            found.append(LabeledObject(label, mask, crowd=crowd, place=f"{path}: {place}"))
        elif label not in OPTIONAL:
            problems.append(f"{place}: the {label} is entirely hidden by later objects, or outside of the image")
    yield LabeledImage(name, height, width, found, problems, SPLITS.get(path.parent.parent.name))


def read_classes(paths: list[Path], images: Path) -> tuple[str, ...]:
    return CLASSES


def holds_labels(path: Path) -> bool:
    return path.name.endswith(LABEL_ENDINGS)


def find_image(path: Path, images: Path) -> str:
    """Returns the image of gtFine/SPLIT/CITY/NAME_gtFine_polygons.json: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png.

    If the folders are others, the image is in `images`, in its folder SPLIT/CITY or CITY, or beside the file.
    """
    stem = path.name[: -len(ENDINGS[0])].removesuffix("_gtFine").removesuffix("_gtCoarse")
    split, city = path.parent.parent.name, path.parent.name
    for folder in (f"leftImg8bit/{split}/{city}", f"{split}/{city}", city, "."):
        for ending in ("_leftImg8bit.png", "_leftImg8bit.jpg", ".png", ".jpg"):
            if (images / folder / (stem + ending)).is_file():
                return (Path(folder) / (stem + ending)).as_posix()
    return image_files.find_image(f"{stem}_leftImg8bit.png", path.parent, images)


def read_shape(shape: Any, height: int, width: int) -> tuple[str, list[tuple[float, float]]]:
    """Returns the label and the points of an object."""
    label = outlines.read_label(shape)
    points = shape.get("polygon")
    if not outlines.are_points(points):
        raise Rejected("polygon_malformed", f"the polygon of the {show(label)} is not a list of [x, y]")
    if len(points) < 3:
        raise Rejected("polygon_malformed", f"the polygon of the {show(label)} has {len(points)} points: it needs 3")
    numbers = [value for point in points for value in point]
    outlines.check_numbers(numbers, height, width)
    length = outline_length(numbers)
    if length > MAX_OUTLINE:
        raise Rejected(
            "polygon_too_long",
            f"the outline of the {show(label)} is {length:,.0f} pixels long, more than {MAX_OUTLINE:,}",
        )
    return label, [tuple(point) for point in points]


def draw_masks(shapes: list[tuple], height: int, width: int) -> list[dict[str, Any] | None]:
    """Returns what `visible_masks` does for shapes of (place, label, points), where some labels hide nothing."""
    masks = visible_masks([points for *_, points in shapes], height, width)
    hiding = [number for number, (_, label, _) in enumerate(shapes) if label not in HIDE_NOTHING]
    if len(hiding) < len(shapes):
        others = visible_masks([shapes[number][2] for number in hiding], height, width)
        for number, mask in zip(hiding, others, strict=True):
            masks[number] = mask
    return masks


def visible_masks(polygons: list[list[tuple[float, float]]], height: int, width: int) -> list[dict[str, Any] | None]:
    """Returns the run lengths of what each polygon shows below the later ones; None if that is nothing."""
    canvas = PIL.Image.new("I", (width, height))  # of 32-bit integers
    drawer = PIL.ImageDraw.Draw(canvas)
    for number, points in enumerate(polygons, 1):
        drawer.polygon(points, fill=number)
    found, total = [], 0
    for first, end in outlines.strips(height, width):
        pixels = np.asarray(canvas.crop((first, 0, end, height)))  # [H, columns]
        new = np.ones(pixels.shape, bool)  # a run of one number starts there, down the column
        np.not_equal(pixels[1:], pixels[:-1], out=new[1:])
        column, row = np.nonzero(new.T)
        total += len(row)
        outlines.check_runs(total)
        starts = (column + first) * height + row
        found.append([pixels[row, column], starts, np.append(starts[1:], end * height)])
    numbers, starts, ends = np.concatenate(found, axis=1)
    order = np.argsort(numbers, kind="stable")  # the runs of one number together, in the order of the pixels
    bounds = np.searchsorted(numbers[order], np.arange(1, len(polygons) + 2))
    masks = []
    for first, last in itertools.pairwise(bounds):
        runs = order[first:last]
        places = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        masks.append(outlines.encode_runs(places, height, width) if len(runs) else None)
    return masks
