"""Rejection reasons and repairs, by name, and the counters of a job.

The rules are in `pipelines.coco` (ids), `pipelines.images` and `pipelines.stuff` (files), and `pipelines.objects`
(boxes and masks). An unusable entry is rejected with one of the reasons below and listed in rejected.jsonl. An entry
with only one interpretation is repaired and counted. Nothing is dropped silently.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from htc_tf.data import annotations

IMAGE_REASONS = {
    "image_malformed": "the entry lacks an integer id, a file_name, or a height and width above 0",
    "image_duplicate": "another image has the same id, so it is unknown which one the annotations belong to",
    "image_outside_root": "file_name leaves the image folder: absolute, through .., or by a symbolic link",
    "image_missing": "no such file",
    "image_unreadable": "not an image, truncated or damaged: the decoder that training uses fails on it",
    "image_too_large": "the header gives more pixels than --max_pixels",
    "image_mode": "the pixels are not 8- or 16-bit colors, but floating point or 32-bit",
    "image_size_differs": "width and height differ from the annotation file, with and without EXIF orientation",
    "stuff_missing": "--stuff has no map for the image",
    "stuff_unreadable": "the stuff map is not a readable PNG of 8-bit labels or of panoptic segments",
    "stuff_size_differs": "the stuff map has another size than the image",
    "stuff_label_unknown": "the stuff map holds a label other than 0 ... stuff_labels - 1 and 255, or an unlisted "
    "panoptic segment",
}
ANNOTATION_REASONS = {
    "annotation_malformed": "the entry is not a JSON object or nested more than 8 lists deep, or iscrowd is not 0 or 1",
    "annotation_duplicate": "an earlier annotation is identical, including the id",
    "image_unknown": "no image has the annotation's image_id",
    "category_unknown": "the categories do not define the annotation's category_id",
    "box_malformed": "bbox is not four finite numbers",
    "box_empty": "bbox has no area",
    "box_outside": "bbox lies outside the image",
    "box_mask_disagree": "an edge of bbox differs from the mask's box by more than 2 pixels plus a fifth of its side",
    "mask_missing": "no segmentation, in a dataset where other objects have one",
    "polygon_malformed": "a polygon has an odd length or NaN or is not a list of numbers, or none has three points",
    "polygon_far_outside": "a point of a polygon is outside the image by more than the image's longer side",
    "polygon_too_long": "the outlines together are longer than 2,000,000 pixels, which would need too much memory",
    "rle_malformed": "the run lengths are negative, undecodable, or do not add up to the image",
    "rle_size_differs": "the size of the run lengths is not the image's",
}
REPAIRS = {
    "images_converted": "another format or mode (CMYK, palette, alpha, 16-bit gray), stored as 8-bit RGB PNG",
    "images_dark": "16-bit gray whose upper four bits are all zero, as of a 12-bit sensor: stored nearly or all black",
    "images_of_pages": "TIFF with several pages: only the first is stored",
    "images_turned": "EXIF orientation applied, as the annotated size or --exif requires: stored as PNG",
    "exif_ignored": "EXIF orientation ignored, as the annotated size or --exif requires: stored unchanged",
    "stuff_converted": "stuff map with a palette: stored as plain labels",
    "boxes_clipped": "box extends outside the image: clipped",
    "boxes_computed": "bbox absent, empty or all zeros, or --boxes mask: computed from the mask",
    "objects_tiny": "box less than one pixel wide or high; the object is kept",
    "polygons_dropped": "polygon of fewer than three points beside others: dropped, as it covers nothing",
    "masks_empty": "mask without pixels; the object is kept",
    "areas_computed": "area absent, not above 0 or not a number: computed from the mask, or the box",
    "image_ids_renumbered": "image id used by an earlier annotation file, or not an integer: replaced",
    "images_united": "image listed by an earlier annotation file: its objects are put together",
    "annotations_repeated": "the same object of the same image in an earlier annotation file: kept once",
    "lvis_ids_dropped": "LVIS's lists of an image name a category id that is not defined: left out of lvis.json",
    "ids_renumbered": "annotation id absent, not an integer, used before, or 0 (pycocotools' 'none'): replaced",
    "file_names_from_url": "file_name absent: the last parts of coco_url are used (LVIS)",
    "file_names_relative": "absolute file_name inside --images: made relative",
    "file_names_corrected": "no such file, but exactly one that differs only by \\ for /, %20 for a space, case, "
    "Unicode form, or the image folder's own name in front",
    **annotations.REPAIRS,
}
# Remedies, for the message that ends the job.
ADVICE = {
    "image_missing": "check --images",
    "image_outside_root": "--images must be the folder that file_name is relative to, and contain the files "
    "themselves; --follow_links reads links to files elsewhere",
    "image_too_large": "raise --max_pixels",
    "annotation_duplicate": "remove the copies",
    "box_mask_disagree": "correct them, or compute each box from its mask with --boxes mask, or keep both with "
    "--boxes unchecked",
    "mask_missing": "--masks none prepares boxes only",
}
ROUNDING = 1e-6  # entries; above the rounding error of a fraction of all entries
ALWAYS_ALLOWED = 3  # rejected entries, if less than half of all
MAX_SHOWN = 60  # characters of a value in a message


class Rejected(Exception):
    """An image or annotation that cannot be used.

    Attributes:
        reason: A key of IMAGE_REASONS or ANNOTATION_REASONS.
        detail: The values found, for messages.
        reads_as: Names of other conventions under which the entry would be correct; None if none were tried.
    """

    def __init__(self, reason: str, detail: str, reads_as: Sequence[str] | None = None):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.reads_as = reads_as


class Counters:
    """Counts by name, the rejected entries, and warnings for the user."""

    def __init__(self):
        self.counts = Counter()
        self.rejected = []
        self.warnings = []
        self.objects_per_image = Counter()  # number of objects -> images

    def count(self, name: str, number: int = 1) -> None:
        self.counts[name] += int(number)  # json cannot write NumPy's integers and booleans

    def reject(self, error: Rejected, **fields: Any) -> None:
        """Counts a rejection and keeps a row for rejected.jsonl; `fields` identify the image or annotation."""
        self.counts[error.reason] += 1
        row = {"reason": error.reason, "detail": encodable(error.detail)}
        for key, value in fields.items():
            if isinstance(value, str):
                row[key] = encodable(value)
            else:
                row[key] = value if type(value) is int or value is None else show(value)
        if error.reads_as is not None:
            row["reads_as"] = list(error.reads_as)
        self.rejected.append(row)


def rejections(counts: dict[str, int]) -> tuple[int, int]:
    """Returns the numbers of rejected images and rejected annotations."""
    return tuple(sum(counts.get(name, 0) for name in reasons) for reasons in (IMAGE_REASONS, ANNOTATION_REASONS))


def allowed(listed: int, max_bad_fraction: float) -> int:
    """Returns how many of the listed entries may be rejected.

    That is the given fraction, but at least three if three are less than half of the entries; 0 allows none.
    """
    few = min(ALWAYS_ALLOWED, (listed - 1) // 2)
    # 0.29 * 100 is 28.999999999999996.
    return max(math.floor(max_bad_fraction * listed + ROUNDING), few) if max_bad_fraction > 0 and listed else 0


def encodable(text: str) -> str:
    """Escapes lone surrogates, which cannot be written to a file."""
    return text.encode("utf-8", "backslashreplace").decode()


def show(value: Any) -> str:
    """Formats a value of the annotation file for a message: in full if it is short, else its kind.

    The numbers of a list that is too long are rounded to six digits, if it is short then.
    """
    if isinstance(value, str):
        text = encodable(value) or '""'
        return text if len(text) <= MAX_SHOWN * 4 else f"{text[:MAX_SHOWN]}... ({len(text):,} characters)"
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    if isinstance(value, (list, dict)):
        flat = value if isinstance(value, list) else [*value, *value.values()]
        simple = len(flat) <= 8 and all(isinstance(item, (int, float, str, type(None))) for item in flat)
        if simple and isinstance(value, list):
            rounded = [float(f"{item:.6g}") if isinstance(item, float) else item for item in value]
            for text in map(json.dumps, (value, rounded)):
                if len(text) <= MAX_SHOWN:
                    return text
        return f"a list of {len(value):,}" if isinstance(value, list) else "a dict"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
