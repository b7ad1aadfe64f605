"""A COCO annotation to a record's object: the box clipped, the mask as compressed run lengths.

Called by `pipelines.shards` for every annotation; what it refuses, it refuses by raising `checks.Rejected`.
Polygons and run lengths are checked before pycocotools sees them: its C code loops for minutes on a point
at 1e9, reads past the end of a cut string, and takes two points for a box.
"""

import io
import itertools
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from htc_tf.data.annotations import MAX_OUTLINE, outline_length
from htc_tf.data.schema import Object
from pipelines import agreement
from pipelines.checks import Rejected, Tally, show

# A box may overshoot by float noise (x + w > width in COCO's own files); less than this, in pixels, is not counted.
NOISE = 1e-3
PARTS = 32  # polygons drawn at a time: each takes as much memory as a mask of the whole image
# Without and with a segmentation.
NO_BOX = (("mask_missing", "no segmentation, which --boxes mask needs"), ("box_empty", "the mask has no pixel"))
FLOAT32_MAX = float(np.finfo(np.float32).max)


def convert(
    annotation: dict[str, Any],
    name: str,
    height: int,
    width: int,
    masks: bool,
    tally: Tally,
    boxes: str = "checked",
) -> Object:
    """Checks one annotation of a `height` x `width` image; `name` is its category's; repairs are tallied.

    Args:
      masks: whether the object must have a mask, and gets it.
      boxes: "checked": bbox must agree with the mask. "unchecked": it need not. "mask": the mask's own box is taken.
        Where bbox is absent or all zeros, the mask's own is taken in any case.

    Raises:
      Rejected: with the reason.
    """
    bbox, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    from_mask = boxes == "mask" or bbox is None or bbox in ([], [0, 0, 0, 0])
    counts, own = b"", None
    if masks or (from_mask and segmentation):
        counts = run_lengths(segmentation, height, width, tally)
        own = mask_box(counts, segmentation, height, width)
    if boxes == "mask" and own is None:
        raise Rejected(*NO_BOX[bool(segmentation)])
    if from_mask and own is not None:
        bbox = [own[0], own[1], own[2] - own[0], own[3] - own[1]]
        tally.count("boxes_computed")
    ymin, xmin, ymax, xmax = clip_box(bbox, height, width, tally)
    if masks and boxes == "checked" and not from_mask:
        agreement.check(bbox, (xmin, ymin, xmax, ymax), own, segmentation, counts, height, width, tally)
    pixels = (ymax - ymin) * (xmax - xmin)
    if masks:
        pixels = int(coco_mask.area({"size": [height, width], "counts": counts}))
        tally.count("masks_empty", pixels == 0)
    else:
        counts = b""
    if ymax - ymin < 1 or xmax - xmin < 1:
        tally.count("objects_tiny")
        tally.count("boxes_of_fractions", all(0 <= value <= 1 for value in bbox))
    area = annotation.get("area")
    if not (_is_number(area) and 0 <= area <= FLOAT32_MAX):
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


def mask_box(counts: bytes, segmentation: Any, height: int, width: int) -> tuple[float, float, float, float] | None:
    """The mask's own box, (xmin, ymin, xmax, ymax) in pixels; of polygons too thin to hold a pixel, their extent.

    None for run lengths without a pixel.
    """
    left, top, box_width, box_height = coco_mask.toBbox({"size": [height, width], "counts": counts}).tolist()
    if box_width and box_height:
        return left, top, left + box_width, top + box_height
    return agreement.extent(segmentation) if isinstance(segmentation, list) else None


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
        raise Rejected("box_malformed", _describe_box(bbox))
    left, top, box_width, box_height = bbox
    if box_width <= 0 or box_height <= 0:
        raise Rejected("box_empty", f"bbox {show(bbox)}: [x, y, width, height] must have a width and height above 0")
    box = (top, left, top + box_height, left + box_width)
    clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], height), min(box[3], width))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise Rejected("box_outside", f"bbox {show(bbox)} in an image of {width} x {height}")
    if any(abs(after - before) > NOISE for after, before in zip(clipped, box, strict=True)):
        tally.count("boxes_clipped")
    return clipped


def run_lengths(segmentation: Any, height: int, width: int, tally: Tally) -> bytes:
    """COCO's polygons or run lengths, compressed or not, to compressed run lengths of the whole image."""
    if not segmentation:
        raise Rejected("mask_missing", "no segmentation")
    if isinstance(segmentation, list):
        return _draw(check_polygons(segmentation, height, width, tally), height, width)
    if not isinstance(segmentation, dict):
        text = "the string " if isinstance(segmentation, str) else ""
        raise Rejected("polygon_malformed", f"segmentation is {text}{show(segmentation)}, not a list of polygons")
    size = segmentation.get("size")
    if size != [height, width]:
        raise Rejected("rle_size_differs", _describe_size(size, height, width))
    counts = segmentation.get("counts")
    compressed = isinstance(counts, str)
    pixels = _add_up(decode_runs(counts) if compressed else counts)
    if pixels is None:
        raise Rejected("rle_malformed", "counts are neither run lengths of 0 and more nor their compressed string")
    if pixels != height * width:
        raise Rejected("rle_malformed", f"counts add up to {show(pixels)}, not to {height} * {width}")
    return counts.encode() if compressed else coco_mask.frPyObjects(segmentation, height, width)["counts"]


def check_polygons(polygons: list[Any], height: int, width: int, tally: Tally) -> list[list[float]]:
    """The polygons that pycocotools may see. The sum, least and largest tell of every value at the speed of C."""
    kept, outline = [], 0.0
    for polygon in polygons:
        try:
            total, least, largest = sum(polygon), min(polygon, default=0), max(polygon, default=0)
        except (TypeError, OverflowError):
            raise Rejected("polygon_malformed", _describe_polygon(polygon)) from None
        if len(polygon) % 2 or not _is_number(total):
            raise Rejected("polygon_malformed", f"a polygon of {len(polygon)} numbers that add up to {show(total)}")
        if least < -max(height, width) or largest > 2 * max(height, width):
            raise Rejected(
                "polygon_far_outside", f"from {show(least)} to {show(largest)} in an image of {width} x {height}"
            )
        if len(polygon) >= 6:
            kept.append(polygon)
            # No edge is longer than this: the exact length is looked at only where it may matter.
            outline += len(polygon) // 2 * (largest - least)
    if outline > MAX_OUTLINE and (outline := sum(map(outline_length, kept))) > MAX_OUTLINE:
        raise Rejected("polygon_too_long", f"{len(kept):,} polygons with outlines of {outline:,.0f} pixels")
    if not kept:
        pairs = len(polygons) > 2 and all(len(polygon) == 2 for polygon in polygons)
        raise Rejected(
            "polygon_malformed",
            "a list of [x, y] points; a polygon must be one flat list, [[x1, y1, x2, y2, ...]]"
            if pairs
            else "no polygon of three points or more",
        )
    tally.count("polygons_dropped", len(polygons) - len(kept))
    return kept


def _add_up(runs):
    """The sum of run lengths; None where they are none."""
    total = 0
    if isinstance(runs, str) or not isinstance(runs, Iterable):
        return None
    for run in runs:
        if type(run) is not int or run < 0:
            return None
        total += run
    return total


def _draw(polygons, height, width):
    """Compressed run lengths of the polygons' union."""
    drawn = coco_mask.frPyObjects(polygons[:PARTS], height, width)
    for start in range(PARTS, len(polygons), PARTS):
        drawn = [coco_mask.merge(drawn), *coco_mask.frPyObjects(polygons[start : start + PARTS], height, width)]
    return (drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn))["counts"]


def _describe_size(size, height, width):
    if size == [width, height]:
        return f"size {show(size)} is [width, height]; it must be [height, width], and counts go down the columns"
    if size is None:
        return "segmentation is a dict without size, [height, width]"
    return f"size {show(size)}, but the image's is {[height, width]}, [height, width]"


def _describe_box(bbox):
    if bbox is None or bbox == []:
        return "no bbox, and no mask to take it from"
    if isinstance(bbox, list) and len(bbox) == 4 and any(isinstance(value, str) for value in bbox):
        return f"bbox {show(bbox)} holds strings: write the numbers without quotes"
    return f"bbox is {show(bbox)}, not four finite numbers, [x, y, width, height]"


def _describe_polygon(polygon):
    if isinstance(polygon, dict):
        return "run lengths among other parts in a list: merge them into one {size, counts}"
    if not isinstance(polygon, list):
        return f"a polygon is {show(polygon)}, not a list of numbers, [x1, y1, x2, y2, ...]"
    kinds = {type(value) for value in itertools.islice(polygon, 1000)}
    if list in kinds:
        return "a polygon is a list of lists, one too deep: it must be one flat list, [x1, y1, x2, y2, ...]"
    if str in kinds:
        return "a polygon's numbers are strings: write them without quotes"
    if type(None) in kinds:
        return "a polygon holds null instead of a number"
    return "a polygon is not a list of finite numbers, [x1, y1, x2, y2, ...]"


def decode_runs(counts: str) -> Iterator[int | None]:
    """COCO's compressed string to run lengths, one at a time; None, at last, where it is none.

    pycocotools would read past the end of such a string. Five bits a character, lowest first, bit 6 says that more
    follow; from the third run on, the difference to the run before the last (rleFrString in cocoapi's maskApi.c).
    """
    value, shift, number, before, last = 0, 0, 0, 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            yield None
            return
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        before, last = last, value + before if number > 2 else value
        number += 1
        yield last
        value, shift = 0, 0
    if shift:
        yield None


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
