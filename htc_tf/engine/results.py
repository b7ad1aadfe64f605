"""Detections become results in each image's own pixels, with masks as COCO run lengths.

Before: `models.htc` gives `Detections` in pixels of the padded input, masks as 28 x 28 probabilities inside their
boxes. After: `engine.evaluator` compares the results with the truth, `engine.visualize` draws them, and
`predict` writes them in COCO's results format.

Pasting is the slow part of a COCO evaluation, so a mask is drawn inside its box only, as columns, which is the
order in which COCO counts its runs; the image around the box is added to the counts without being drawn.
"""

import math
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

MASK_THRESHOLD = np.float32(0.5)


class ImageResult(NamedTuple):
    """What was found in one image, best first, in its own pixels."""

    boxes: np.ndarray  # [n, 4] float32
    scores: np.ndarray  # [n] float32
    classes: np.ndarray  # [n] int32
    masks: list | None  # n COCO run-length dicts {"size": [height, width], "counts": str}; None without a mask branch


def image_results(detections, sizes, original_sizes):
    """Takes a batch of detections back to the images before resizing.

    Args:
        detections: `structures.Detections` whose fields are NumPy arrays (or anything that NumPy reads).
        sizes: [B, 2] height and width of the resized images inside their padding.
        original_sizes: [B, 2] height and width before resizing.

    Returns:
        A list of B `ImageResult`, boxes clipped to the image. Rows that are not valid are left out.
    """
    boxes, scores, classes, valid = (np.asarray(field) for field in detections[:4])
    masks = None if detections.masks is None else np.asarray(detections.masks, np.float32)
    sizes, original_sizes = np.asarray(sizes, np.float32), np.asarray(original_sizes)
    results = []
    for row, (height, width) in enumerate(original_sizes.tolist()):
        keep = valid[row]
        # A row that only fills up the last batch may have no size at all.
        scale = np.maximum(sizes[row], 1) / np.maximum(original_sizes[row], 1).astype(np.float32)
        scaled = boxes[row][keep] / np.tile(scale, 2)
        limits = np.array([height, width, height, width], np.float32)
        runs = None
        if masks is not None:
            runs = [encode_pasted(mask, box, height, width) for mask, box in zip(masks[row][keep], scaled, strict=True)]
        results.append(ImageResult(np.clip(scaled, 0, limits), scores[row][keep], classes[row][keep], runs))
    return results


def coco_results(results, image_ids, category_ids):
    """Writes results as COCO's results format wants them.

    Args:
        results: `ImageResult` per image.
        image_ids: the data set's id per image; a negative one marks a row that only fills up a batch and is left out.
        category_ids: the data set's category id of each class, in the model's order of classes.

    Returns:
        A list of dicts that json can write: image_id, category_id, bbox as [x, y, width, height] in pixels to three
        decimals, score, and segmentation where there are masks.
    """
    entries = []
    for result, image_id in zip(results, image_ids, strict=True):
        if image_id < 0:
            continue
        y1, x1, y2, x2 = result.boxes.astype(np.float64).T
        xywh = np.round(np.stack([x1, y1, x2 - x1, y2 - y1], axis=1), 3).tolist()
        for index, (box, score, label) in enumerate(
            zip(xywh, result.scores.tolist(), result.classes.tolist(), strict=True)
        ):
            entry = {
                "image_id": int(image_id),
                "category_id": int(category_ids[label]),
                "bbox": box,
                "score": score,
            }
            if result.masks is not None:
                entry["segmentation"] = result.masks[index]
            entries.append(entry)
    return entries


def encode_pasted(mask, box, height, width):
    """One mask, resized into its box and cut at 0.5, as COCO run lengths of the whole image."""
    columns, top, left = paste_columns(mask, box, height, width)
    return encode_columns(columns, top, left, height, width)


def paste_columns(mask, box, height, width):
    """Resizes a mask into its box: bilinear at half-pixel centres, zero beyond the mask, then >= 0.5.

    The same figures as mmdetection's paste (`FCNMaskHead`), which fills the whole image: half a cell beyond the
    mask, that is beyond its box, an interpolated value cannot reach 0.5.

    Args:
        mask: [M, M] float32 probabilities, rows then columns.
        box: [4] float32, in pixels of the image; may reach beyond it.
        height, width: of the image.

    Returns:
        (columns, top, left): a bool array [w, h], transposed, of the pixels whose centres lie in both box and image;
        its first row and column in the image. Empty for an empty box.
    """
    y1, x1, y2, x2 = np.asarray(box, np.float32).tolist()
    top, rows, down = _interpolate(y1, y2, height, len(mask))
    left, columns, right = _interpolate(x1, x2, width, len(mask))
    framed = np.zeros((len(mask) + 2, len(mask) + 2), np.float32)
    framed[1:-1, 1:-1] = mask
    # Whole rows are gathered each time: taking single elements along the last axis is several times slower.
    stretched = np.ascontiguousarray(_blend(framed, rows, down).T)
    return _blend(stretched, columns, right) >= MASK_THRESHOLD, top, left


def encode_columns(columns, top, left, height, width):
    """COCO run lengths of an image that is zero but for a part.

    Args:
        columns: [w, h] bool, the part, transposed.
        top, left: where the part's first pixel lies in the image.
        height, width: of the image.

    Returns:
        {"size": [height, width], "counts": str}, the very string that `pycocotools.mask.encode` gives.
    """
    part_width, part_height = columns.shape
    if columns.size == 0:
        changes = np.zeros(0, np.int64)
    else:
        # A zero before each column, and after the last, makes every run begin and end inside its own column.
        flat = np.zeros(part_width * (part_height + 1) + 1, bool)
        flat[:-1].reshape(part_width, part_height + 1)[:, 1:] = columns
        column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), part_height + 1)
        changes = (column + left) * height + row + top
        if part_height == height:
            changes = _join_touching_runs(changes)
    counts = np.empty(len(changes) + 1, np.int64)
    counts[:-1], counts[-1] = changes, height * width
    counts[1:] -= changes
    if len(changes) and counts[-1] == 0:
        counts = counts[:-1]  # a run that ends with the image is the last
    runs = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": runs["counts"].decode("ascii")}


def _interpolate(start, end, size, cells):
    """For the pixel centres between start and end: the first pixel, the lower cell (framed by a zero), its distance."""
    first = min(max(math.ceil(start - 0.5), 0), size)
    last = min(math.floor(end + 0.5), size) if end > start else first
    if last <= first:
        return first, np.zeros(0, np.intp), np.zeros((0, 1), np.float32)
    position = np.arange(first, last, dtype=np.float32)
    # mmdetection's order of operations, by way of [-1, 1], so that float32 rounds alike.
    position += 0.5
    position -= start
    position /= end - start
    position *= 2
    position -= 1
    position += 1
    position *= cells
    position -= 1
    position /= 2
    lower = np.floor(position)
    position -= lower
    return first, lower.astype(np.intp) + 1, position[:, None]


def _blend(values, lower, distance):
    blended = values.take(lower, axis=0)
    blended *= 1 - distance
    upper = values.take(lower + 1, axis=0)
    upper *= distance
    blended += upper
    return blended


def _join_touching_runs(changes):
    """Drops the pairs (end of a run, start of the next) that fall together at the end of a full column."""
    touching = np.flatnonzero(changes[1:-1:2] == changes[2::2])
    return np.delete(changes, np.concatenate([2 * touching + 1, 2 * touching + 2]))
