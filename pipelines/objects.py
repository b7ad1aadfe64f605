"""A COCO annotation to a record's object: the box clipped, the mask as compressed run lengths.

Called by `pipelines.shards` for every annotation; what it refuses, it refuses by raising `checks.Rejected`.
Polygons and run lengths are checked before pycocotools sees them: its C code loops for minutes on a point
at 1e9, reads past the end of a cut string, and takes two points for a box.
"""

import io
import math
import zlib
from typing import Any

import PIL.Image
from pycocotools import mask as coco_mask

from htc_tf.data.schema import Object
from pipelines.checks import Rejected, Tally

# A box may overshoot by float noise (x + w > width in COCO's own files); less than this, in pixels, is not counted.
NOISE = 1e-3


def convert(annotation: dict[str, Any], name: str, height: int, width: int, masks: bool, tally: Tally) -> Object:
    """Checks one annotation of a `height` x `width` image; `name` is its category's; repairs are tallied.

    Raises:
      Rejected: with the reason.
    """
    ymin, xmin, ymax, xmax = clip_box(annotation.get("bbox"), height, width, tally)
    counts, pixels = b"", (ymax - ymin) * (xmax - xmin)
    if masks:
        counts = run_lengths(annotation.get("segmentation"), height, width, tally)
        pixels = int(coco_mask.area({"size": [height, width], "counts": counts}))
        tally.count("masks_empty", pixels == 0)
    area = annotation.get("area")
    if not (_is_number(area) and area >= 0):
        tally.count("areas_computed")
        area = pixels
    return Object(
        id=annotation["id"],
        ymin=ymin / height,
        xmin=xmin / width,
        ymax=ymax / height,
        xmax=xmax / width,
        label=annotation["category_id"],
        text=name,
        is_crowd=int(annotation["iscrowd"]),
        area=area,
        mask_rle=counts,
    )


def draw_mask(counts: bytes, height: int, width: int) -> bytes:
    """Compressed run lengths to Model Garden's image/object/mask: a PNG of the image's size, 1 inside and 0 outside."""
    stream = io.BytesIO()
    mask = coco_mask.decode({"size": [height, width], "counts": counts})
    # Model Garden's own are made with zlib's default strategy: a fifth slower, and larger.
    PIL.Image.fromarray(mask).save(stream, "PNG", compress_type=zlib.Z_RLE)
    return stream.getvalue()


def clip_box(bbox: Any, height: int, width: int, tally: Tally) -> tuple[float, float, float, float]:
    """COCO's [x, y, w, h] to (ymin, xmin, ymax, xmax), clipped to the image, all in pixels."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)):
        raise Rejected("box_malformed", f"bbox {str(bbox)[:80]}")
    left, top, box_width, box_height = bbox
    if box_width <= 0 or box_height <= 0:
        raise Rejected("box_empty", f"bbox {bbox}")
    box = (top, left, top + box_height, left + box_width)
    clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], height), min(box[3], width))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise Rejected("box_outside", f"bbox {bbox} in an image of {width} x {height}")
    if any(abs(after - before) > NOISE for after, before in zip(clipped, box, strict=True)):
        tally.count("boxes_clipped")
    return clipped


def run_lengths(segmentation: Any, height: int, width: int, tally: Tally) -> bytes:
    """COCO's polygons or run lengths, compressed or not, to compressed run lengths of the whole image."""
    if not segmentation:
        raise Rejected("mask_missing", "no segmentation")
    if isinstance(segmentation, list):
        polygons = check_polygons(segmentation, height, width, tally)
        parts = coco_mask.frPyObjects(polygons, height, width)
        return (parts[0] if len(parts) == 1 else coco_mask.merge(parts))["counts"]
    if not isinstance(segmentation, dict):
        raise Rejected("polygon_malformed", f"segmentation is {type(segmentation).__name__}, not a list of polygons")
    if segmentation.get("size") != [height, width]:
        raise Rejected("rle_size_differs", f"size {segmentation.get('size')}, image {[height, width]}")
    counts = segmentation.get("counts")
    compressed = isinstance(counts, str)
    runs = decode_runs(counts) if compressed else counts
    if not (isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)):
        raise Rejected("rle_malformed", "counts are neither run lengths of 0 and more nor their compressed string")
    if sum(runs) != height * width:
        raise Rejected("rle_malformed", f"counts add up to {sum(runs)}, not to {height} * {width}")
    return counts.encode() if compressed else coco_mask.frPyObjects(segmentation, height, width)["counts"]


def check_polygons(polygons: list[Any], height: int, width: int, tally: Tally) -> list[list[float]]:
    """The polygons that pycocotools may see. The sum, least and largest tell of every value at the speed of C."""
    kept = []
    for polygon in polygons:
        try:
            total, least, largest = sum(polygon), min(polygon, default=0), max(polygon, default=0)
        except TypeError:
            raise Rejected("polygon_malformed", f"no list of numbers: {str(polygon)[:80]}") from None
        if len(polygon) % 2 or not math.isfinite(total):
            raise Rejected("polygon_malformed", f"{len(polygon)} numbers that add up to {total}")
        if least < -max(height, width) or largest > 2 * max(height, width):
            raise Rejected("polygon_far_outside", f"from {least} to {largest} in an image of {width} x {height}")
        if len(polygon) >= 6:
            kept.append(polygon)
    if not kept:
        raise Rejected("polygon_malformed", "no polygon of three points or more")
    tally.count("polygons_dropped", len(polygons) - len(kept))
    return kept


def decode_runs(counts: str) -> list[int] | None:
    """COCO's compressed string to run lengths; None where it is none (pycocotools would read past its end).

    Five bits a character, lowest first, bit 6 says that more follow; from the third run on, the difference to the
    run before the last (rleFrString in cocoapi's common/maskApi.c).
    """
    runs, value, shift = [], 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return None if shift else runs


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)
