"""Why something is left out of the records or changed on the way, by name, and the tally of it.

The rules themselves are in `pipelines.coco` (ids), `pipelines.images` and `pipelines.stuff` (files) and
`pipelines.objects` (boxes and masks). What cannot be used is rejected with one of the reasons below and goes to
rejected.jsonl; what has one right reading is repaired and counted. Nothing is dropped silently.
"""

from collections import Counter
from typing import Any

IMAGE_REASONS = {
    "image_malformed": "the entry lacks an integer id, a file_name, or a height and width above 0",
    "image_duplicate": "an earlier image has this id",
    "image_outside_root": "file_name leaves the image folder: absolute, through .., or by a symbolic link",
    "image_missing": "no such file",
    "image_unreadable": "not an image, or truncated, or damaged: the decoder that training uses refuses it",
    "image_too_large": "more pixels than --max_pixels, by its header",
    "image_mode": "pixels that are no 8- or 16-bit colours (floating point, 32-bit)",
    "image_size_differs": "width and height are not those of the annotation file, turned by EXIF or not",
    "stuff_missing": "--stuff has no map for the image",
    "stuff_unreadable": "the stuff map is no readable PNG of 8-bit labels, or of panoptic segments",
    "stuff_size_differs": "the stuff map is not of the image's size",
    "stuff_label_unknown": "the stuff map holds a label that is none of 0 ... stuff_labels - 1 and 255, or a panoptic "
    "segment that is not listed",
}
ANNOTATION_REASONS = {
    "annotation_malformed": "the entry lacks an integer id, or iscrowd is not 0 or 1",
    "annotation_duplicate": "an earlier annotation has this id",
    "image_unknown": "no image has the annotation's image_id",
    "category_unknown": "categories do not define the annotation's category_id",
    "box_malformed": "bbox is not four finite numbers",
    "box_empty": "bbox has no area",
    "box_outside": "bbox lies outside of the image",
    "mask_missing": "no segmentation, in a data set where others have one",
    "polygon_malformed": "a polygon of odd length, with NaN, or that is not a list of numbers; or none of three points",
    "polygon_far_outside": "a polygon's point is further outside than the image is long",
    "rle_malformed": "the run lengths are negative, undecodable, or do not add up to the image",
    "rle_size_differs": "the run lengths' size is not the image's",
}
REPAIRS = {
    "images_converted": "another format or mode (CMYK, palette, alpha, 16 bits), stored as 8-bit RGB PNG",
    "images_turned": "size agrees only after EXIF's rotation: stored turned, as PNG",
    "exif_ignored": "EXIF asks for a rotation, but the size agrees without it: stored as it is",
    "stuff_converted": "stuff map with a palette, stored as plain labels",
    "boxes_clipped": "box reached outside of the image",
    "polygons_dropped": "part of fewer than three points, which covers nothing, beside others",
    "masks_empty": "mask without a pixel; the object is kept",
    "areas_computed": "area was absent or no number: taken from the mask, or the box",
    "ids_renumbered": "annotation id 0, which pycocotools takes for 'none', got an id of its own",
}


class Rejected(Exception):
    """An image or an annotation that cannot be used: `reason` is a key of the tables above."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Tally:
    """Counts by name, and the list of what was rejected."""

    def __init__(self):
        self.counters = Counter()
        self.rejected = []
        self.objects_per_image = Counter()  # number of objects -> images

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += number

    def reject(self, error: Rejected, **who: Any) -> None:
        """Counts the rejection and keeps a row of it; `who` names the image or annotation."""
        self.counters[error.reason] += 1
        self.rejected.append({"reason": error.reason, "detail": error.detail, **who})


def rejections(counters: dict[str, int]) -> tuple[int, int]:
    """The numbers of images and of annotations that were rejected."""
    return tuple(sum(counters.get(name, 0) for name in reasons) for reasons in (IMAGE_REASONS, ANNOTATION_REASONS))
