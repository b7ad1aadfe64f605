"""Why something is left out of the records or changed on the way, by name, and the tally of it.

The rules themselves are in `pipelines.coco` (ids), `pipelines.images` and `pipelines.stuff` (files) and
`pipelines.objects` (boxes and masks). What cannot be used is rejected with one of the reasons below and goes to
rejected.jsonl; what has one right reading is repaired and counted. Nothing is dropped silently.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from htc_tf.data import annotations

IMAGE_REASONS = {
    "image_malformed": "the entry lacks an integer id, a file_name, or a height and width above 0",
    "image_duplicate": "another image has this id: nothing says which of them the annotations belong to",
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
    "annotation_malformed": "the entry is not an object of JSON, or iscrowd is not 0 or 1",
    "annotation_duplicate": "an earlier annotation is the same, its id included",
    "image_unknown": "no image has the annotation's image_id",
    "category_unknown": "categories do not define the annotation's category_id",
    "box_malformed": "bbox is not four finite numbers",
    "box_empty": "bbox has no area",
    "box_outside": "bbox lies outside of the image",
    "box_mask_disagree": "an edge of bbox is off the mask's own box by more than 2 pixels and a fifth of its side",
    "mask_missing": "no segmentation, in a data set where others have one",
    "polygon_malformed": "a polygon of odd length, with NaN, or that is not a list of numbers; or none of three points",
    "polygon_far_outside": "a polygon's point is further outside than the image is long",
    "polygon_too_long": "the outlines are longer than 2,000,000 pixels together, which would take memory without bound",
    "rle_malformed": "the run lengths are negative, undecodable, or do not add up to the image",
    "rle_size_differs": "the run lengths' size is not the image's",
}
REPAIRS = {
    "images_converted": "another format or mode (CMYK, palette, alpha, 16 bits), stored as 8-bit RGB PNG",
    "images_dark": "16-bit gray whose upper four bits are all zero, such as 12 bits of a sensor: stored nearly black",
    "images_turned": "turned upright by EXIF's orientation, as the annotated size or --exif says: stored as PNG",
    "exif_ignored": "EXIF's orientation ignored, as the annotated size or --exif says: stored as it is",
    "stuff_converted": "stuff map with a palette, stored as plain labels",
    "boxes_clipped": "box reached outside of the image",
    "boxes_computed": "bbox absent or all zeros, or --boxes mask: taken from the mask",
    "objects_tiny": "box narrower or lower than one pixel; the object is kept",
    "polygons_dropped": "part of fewer than three points, which covers nothing, beside others",
    "masks_empty": "mask without a pixel; the object is kept",
    "areas_computed": "area was absent or no number: taken from the mask, or the box",
    "ids_renumbered": "annotation id absent, not an integer, used before, or 0 (pycocotools' 'none'): replaced",
    "file_names_from_url": "file_name absent: the last parts of coco_url (LVIS)",
    "file_names_relative": "absolute file_name inside of --images: taken relative to it",
    "file_names_corrected": "no such file; the only one that fits otherwise: \\ for /, %20 for a space, upper or lower "
    "case, Unicode form, or the image folder's own name in front",
    **annotations.REPAIRS,
}
# What a user can do about it, for the message that ends the job.
ADVICE = {
    "image_missing": "check --images",
    "image_outside_root": "--images must name the folder that file_name starts from, and hold the files themselves, "
    "not links to elsewhere (cp -rL copies what links lead to)",
    "image_too_large": "raise --max_pixels",
    "annotation_duplicate": "remove the copies",
    "box_mask_disagree": "correct them, or take each box from its mask with --boxes mask, or keep both with "
    "--boxes unchecked",
    "mask_missing": "--masks none prepares boxes only",
}
FEW = 3  # rejected entries that are always allowed
SHOWN = 60  # characters of a value in a message


class Rejected(Exception):
    """An image or an annotation that cannot be used: `reason` is a key of the tables above.

    `reads_as`: other conventions under which it would be right, None where that was not looked into.
    """

    def __init__(self, reason: str, detail: str, reads_as: Sequence[str] | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.reads_as = reads_as


class Tally:
    """Counts by name, the list of what was rejected, and sentences that the user must read."""

    def __init__(self):
        self.counters = Counter()
        self.rejected = []
        self.warnings = []
        self.objects_per_image = Counter()  # number of objects -> images

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += int(number)  # NumPy's integers and truth values are no JSON

    def reject(self, error: Rejected, **who: Any) -> None:
        """Counts the rejection and keeps a row of it; `who` names the image or annotation."""
        self.counters[error.reason] += 1
        row = {"reason": error.reason, "detail": encodable(error.detail)}
        for key, value in who.items():
            row[key] = (
                value
                if type(value) is int or value is None
                else encodable(value)
                if isinstance(value, str)
                else show(value)
            )
        if error.reads_as is not None:
            row["reads_as"] = list(error.reads_as)
        self.rejected.append(row)


def rejections(counters: dict[str, int]) -> tuple[int, int]:
    """The numbers of images and of annotations that were rejected."""
    return tuple(sum(counters.get(name, 0) for name in reasons) for reasons in (IMAGE_REASONS, ANNOTATION_REASONS))


def allowed(listed: int, max_bad_fraction: float) -> int:
    """How many of the listed entries may be rejected: the fraction, and three at least if that is less than half.

    A fraction of 0 allows none.
    """
    few = min(FEW, (listed - 1) // 2)
    return max(int(max_bad_fraction * listed), few) if max_bad_fraction > 0 and listed else 0


def encodable(text: str) -> str:
    """The text with half surrogate pairs, which no file can hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def show(value: Any) -> str:
    """A value of the annotation file for a message: in full if it is short, else what it is."""
    if isinstance(value, str):
        text = encodable(value) or '""'
        return text if len(text) <= SHOWN * 4 else f"{text[:SHOWN]}... ({len(text):,} characters)"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of 20 digits or more"
    if isinstance(value, (list, dict)):
        flat = value if isinstance(value, list) else [*value, *value.values()]
        simple = len(flat) <= 8 and all(isinstance(item, (int, float, str, type(None))) for item in flat)
        text = json.dumps(value) if simple and isinstance(value, list) else ""
        if text and len(text) <= SHOWN:
            return text
        return f"a list of {len(value):,}" if isinstance(value, list) else "a dict"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
