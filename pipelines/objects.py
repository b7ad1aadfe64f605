"""COCO annotation to record object: the box clipped, the mask as compressed run lengths.

Unusable annotations raise `checks.Rejected`. Polygons and run lengths are checked before pycocotools reads them: its C
code loops for minutes on a point at 1e9, reads past the end of a truncated string, and takes two points for a box.
"""

import io
import itertools
import sys
import zlib
from typing import Any

import numpy as np
import PIL.Image
from pycocotools import mask as coco_mask

from htc_tf.data.annotations import MAX_OUTLINE, count_pixels, lacks_box, outline_length
from htc_tf.data.record import Object

from . import agreement
from .checks import Counters, Rejected, show

# Pixels. Boxes may exceed the image by float noise (x + w > width in COCO's own files); less than this is not counted.
MIN_CLIP = 1e-3
CHUNK = 32  # polygons drawn at a time; each needs as much memory as a mask of the whole image
# Rejections without and with a segmentation.
NO_BOX = (("mask_missing", "no segmentation, which --boxes mask needs"), ("box_empty", "the mask has no pixels"))
FLOAT32_MAX = float(np.finfo(np.float32).max)


def convert(
    annotation: dict[str, Any],
    name: str,
    height: int,
    width: int,
    masks: bool,
    counters: Counters,
    boxes: str = "checked",
) -> Object:
    """Checks one annotation and converts it; repairs are counted.

    Args:
        annotation: An entry of the annotation file, after `coco.check_annotations`.
        name: Name of its category.
        height, width: The image's size in pixels.
        masks: If True, the object must have a mask, and keeps it.
        counters: Counters.
        boxes: "checked" requires bbox and mask to agree, "unchecked" does not, "mask" computes bbox from the mask. A
            bbox that is absent, empty or all zeros is always computed from the mask.
    Raises:
        Rejected: The annotation cannot be used.
    """
    bbox, segmentation = annotation.get("bbox"), annotation.get("segmentation")
    from_mask = boxes == "mask" or lacks_box(annotation)
    counts, mask_box = b"", None
    if masks or (from_mask and segmentation):
        counts = to_rle(segmentation, height, width, counters)
        mask_box = compute_mask_box(counts, segmentation, height, width)
    if boxes == "mask" and mask_box is None:
        raise Rejected(*NO_BOX[bool(segmentation)])
    if from_mask and mask_box is not None:
        left, top, right, bottom = mask_box
        bbox = [left, top, right - left, bottom - top]
        counters.count("boxes_computed")
    ymin, xmin, ymax, xmax = clip_box(bbox, height, width, counters)
    if masks and boxes == "checked" and not from_mask:
        agreement.check(bbox, (xmin, ymin, xmax, ymax), mask_box, segmentation, counts, height, width, counters)
    pixels = (ymax - ymin) * (xmax - xmin)
    if masks:
        pixels = int(coco_mask.area({"size": [height, width], "counts": counts}))
        counters.count("masks_empty", pixels == 0)
    else:
        counts = b""
    if ymax - ymin < 1 or xmax - xmin < 1:
        counters.count("objects_tiny")
        counters.count("boxes_of_fractions", all(0 <= value <= 1 for value in bbox))
    is_computed = lacks_area(annotation)
    area = pixels if is_computed else annotation["area"]
    counters.count("areas_computed", is_computed)
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


def lacks_area(annotation: dict[str, Any]) -> bool:
    """Returns True if the area is absent, 0 or impossible, so that it is computed from the mask, or the box."""
    area = annotation.get("area")
    return not (_is_number(area) and 0 < area <= FLOAT32_MAX)


def compute_mask_box(
    counts: bytes, segmentation: Any, height: int, width: int
) -> tuple[float, float, float, float] | None:
    """Returns the box of a mask, (xmin, ymin, xmax, ymax) in pixels.

    Polygons too thin to cover a pixel give the extent of their points, run lengths without pixels None.
    """
    left, top, box_width, box_height = coco_mask.toBbox({"size": [height, width], "counts": counts}).tolist()
    if box_width and box_height:
        return left, top, left + box_width, top + box_height
    return agreement.extent(segmentation) if isinstance(segmentation, list) else None


def mask_png(counts: bytes, height: int, width: int) -> bytes:
    """Returns Model Garden's image/object/mask of a mask: a PNG of the image's size, 1 inside and 0 outside."""
    stream = io.BytesIO()
    mask = coco_mask.decode({"size": [height, width], "counts": counts})
    # Runs suit Z_RLE; Model Garden uses zlib's default strategy, which is a fifth slower and gives larger files.
    PIL.Image.fromarray(mask).save(stream, "PNG", compress_type=zlib.Z_RLE)
    return stream.getvalue()


def clip_box(bbox: Any, height: int, width: int, counters: Counters) -> tuple[float, float, float, float]:
    """Converts COCO's [x, y, w, h] to (ymin, xmin, ymax, xmax), clipped to the image, all in pixels."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)):
        raise Rejected("box_malformed", _describe_box(bbox))
    left, top, box_width, box_height = bbox
    if box_width <= 0 or box_height <= 0:
        raise Rejected("box_empty", f"bbox {show(bbox)}: [x, y, width, height] must have a width and height above 0")
    box = (top, left, top + box_height, left + box_width)
    clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], height), min(box[3], width))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise Rejected("box_outside", f"bbox {show(bbox)} in an image of {width} x {height} pixels")
    if any(abs(after - before) > MIN_CLIP for after, before in zip(clipped, box, strict=True)):
        counters.count("boxes_clipped")
    return clipped


def to_rle(segmentation: Any, height: int, width: int, counters: Counters) -> bytes:
    """Converts polygons or run lengths to compressed run lengths of the whole image."""
    if not segmentation:
        raise Rejected("mask_missing", "no segmentation")
    if isinstance(segmentation, list):
        return _draw(check_polygons(segmentation, height, width, counters), height, width)
    if not isinstance(segmentation, dict):
        text = "the string " if isinstance(segmentation, str) else ""
        raise Rejected("polygon_malformed", f"segmentation is {text}{show(segmentation)}, not a list of polygons")
    size = segmentation.get("size")
    if size != [height, width]:
        raise Rejected("rle_size_differs", _describe_size(size, height, width))
    counts = segmentation.get("counts")
    pixels = count_pixels(counts)
    if pixels is None:
        raise Rejected("rle_malformed", "counts are neither non-negative run lengths nor their compressed string")
    if pixels != height * width:
        raise Rejected("rle_malformed", f"counts add up to {show(pixels)}, not to {height} * {width}")
    return counts.encode() if isinstance(counts, str) else coco_mask.frPyObjects(segmentation, height, width)["counts"]


def check_polygons(polygons: list[Any], height: int, width: int, counters: Counters) -> list[list[float]]:
    """Returns the polygons that pycocotools can draw safely.

    Sum, minimum and maximum check all values at the speed of C.
    """
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
            # An upper bound, as no edge is longer than this; only if it is too large, the exact length is computed.
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
    counters.count("polygons_dropped", len(polygons) - len(kept))
    return kept


def _draw(polygons, height, width):
    """Returns the compressed run lengths of the polygons' union."""
    drawn = coco_mask.frPyObjects(polygons[:CHUNK], height, width)
    for start in range(CHUNK, len(polygons), CHUNK):
        drawn = [coco_mask.merge(drawn), *coco_mask.frPyObjects(polygons[start : start + CHUNK], height, width)]
    return (drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn))["counts"]


def _describe_size(size, height, width):
    if size == [width, height]:
        return f"size {show(size)} is [width, height]; it must be [height, width], and the counts go down the columns"
    if size is None:
        return "segmentation is a dict without size, [height, width]"
    return f"size {show(size)}, but the image's is {[height, width]}, [height, width]"


def _describe_box(bbox):
    if bbox is None or bbox == []:
        return "no bbox, and no mask to compute it from"
    if isinstance(bbox, list) and len(bbox) == 4 and any(isinstance(value, str) for value in bbox):
        return f"bbox {show(bbox)} contains strings: write the numbers without quotes"
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
        return "a polygon contains null instead of a number"
    return "a polygon is not a list of finite numbers, [x1, y1, x2, y2, ...]"


def _is_number(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
