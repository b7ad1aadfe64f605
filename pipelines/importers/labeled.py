"""Labeled images: what each importer yields for `pipelines.to_coco`."""

from typing import Any, NamedTuple


class LabeledObject(NamedTuple):
    """An object of an image.

    Attributes:
        label: Name of its class.
        segmentation: COCO's: polygons [[x1, y1, x2, y2, ...], ...] in pixels, or run lengths {"size", "counts"}; None
            if the tool stores a box alone.
        box: [x, y, width, height] in pixels; None to compute it from the segmentation.
        crowd: If True, the region holds many objects, as COCO's iscrowd.
        place: The file and the entry that state it, such as "labels/a.txt: line 3", for messages.
    """

    label: str
    segmentation: Any
    box: list[float] | None = None
    crowd: bool = False
    place: str = ""


class LabeledImage(NamedTuple):
    """An image with its objects.

    Attributes:
        file_name: Path of the image file, relative to the folder of the images, with slashes.
        height: In pixels, upright.
        width: In pixels, upright.
        objects: List of LabeledObjects.
        problems: A text for each part of the file that is left out.
        split: "train", "val" or "test" if the data set states it; None if a hash of the name decides.
    """

    file_name: str
    height: int
    width: int
    objects: list[LabeledObject]
    problems: list[str]
    split: str | None = None
