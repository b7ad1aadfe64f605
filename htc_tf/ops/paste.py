"""COCO run lengths of pasted masks, in NumPy: only the outline of a mask is computed, and no image is drawn.

COCO's runs go down the columns, and down a column an interpolated mask is a straight line from cell to cell: it crosses
0.5 at most once per cell. So the 28 cells of a column show where its runs change, however many pixels they span, and
only the pixels beside a change are computed. They are computed as in `paste_columns`, the plain implementation, which
also processes masks whose crossings could be moved by rounding: the two are equal bit for bit.

`ops.rle` computes the same in a TensorFlow graph. An image with 100 detections takes 9 CPU ms here and 46 ms there at
480 x 640, 18 and 59 ms at 800 x 1344 (4 threads on two cores), which is why evaluation uses NumPy; and a client needs
no TensorFlow.
"""

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

MASK_THRESHOLD = np.float32(0.5)
CHUNK = 8192  # columns that are processed together: their arrays fit into the cache
MAX_COORDINATE = 1e9  # pixels; float32 cannot place pixels in a box that extends further, or to infinity, or is NaN
ROUNDING = 1e-6  # several times the float32 rounding error of an interpolated probability


class _Axis(NamedTuple):
    """The pixels of n masks along one axis, one mask after the other."""

    first: np.ndarray  # [n] int64, the first pixel in the image whose center lies in the box
    offset: np.ndarray  # [n + 1] int64, the start of each mask's pixels in the arrays below
    owner: np.ndarray  # [pixels] int64, index of the mask
    lower: np.ndarray  # [pixels] int64, the cell before the pixel's center, in the mask with a frame of zeros
    distance: np.ndarray  # [pixels] float32, from that cell to the center, in cells


def encode_masks(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> list[dict[str, Any]]:
    """Pastes masks into their boxes, thresholds them at 0.5 and encodes them as run lengths of the whole image.

    The pixels equal mmdetection's (`FCNMaskHead`): bilinear between cell centers, zero outside the mask.

    Args:
        masks: [n, M, M] float32 probabilities, rows then columns.
        boxes: [n, 4] float32, in pixels of the image; may extend beyond it.
        height, width: ints, the image's size.

    Returns:
        List of n dicts {"size": [height, width], "counts": str}, with the strings of `pycocotools.mask.encode`.
    """
    masks, boxes = np.asarray(masks, np.float32), np.asarray(boxes, np.float32)
    boxes = np.where((np.abs(boxes) < MAX_COORDINATE).all(axis=1, keepdims=True), boxes, np.float32(0))
    widths = np.maximum(np.minimum(boxes[:, 3], width) - np.maximum(boxes[:, 1], 0), 0)  # [n], columns in the image
    parts = np.floor(np.cumsum(widths) / CHUNK)  # [n], ascending: masks with the same number form a chunk
    runs = []
    for part in np.unique(parts):
        chosen = parts == part
        runs += _encode_chunk(masks[chosen], boxes[chosen], height, width)
    return runs


def _encode_chunk(masks, boxes, height, width):
    cells = masks.shape[1]
    framed = np.pad(masks, [(0, 0), (1, 1), (1, 1)])  # [n, M + 2, M + 2]
    rows = _interpolate(boxes[:, 0], boxes[:, 2], height, cells)
    columns = _interpolate(boxes[:, 1], boxes[:, 3], width, cells)
    # Masks at their own rows but the image's columns, relative to the threshold; the outermost rows are zeros.
    stretched = framed.transpose(0, 2, 1).reshape(-1, cells + 2)  # [n (M + 2), M + 2], the masks' columns as rows
    knots = _blend(stretched, columns.owner * (cells + 2) + columns.lower, columns.distance[:, None])
    knots -= MASK_THRESHOLD  # [columns, M + 2]
    # Masks where rounding could move a crossing: a knot close to the threshold, or (below) a flat crossing.
    unsure = np.zeros(len(masks), bool)
    unsure[columns.owner[~(np.abs(knots) >= ROUNDING).all(axis=1)]] = True

    inside = (knots >= 0).ravel()
    # c crossings. None lies between two columns: the first and last knot of a column are outside.
    at = np.flatnonzero(inside[1:] != inside[:-1])  # [c]
    column, cell = np.divmod(at, cells + 2)
    owner = columns.owner[column]
    before, after = knots.ravel()[at], knots.ravel()[at + 1]
    pixels_per_cell = (boxes[:, 2] - boxes[:, 0]) / cells
    unsure[owner[~(np.abs(after - before) > 4 * ROUNDING * pixels_per_cell[owner])]] = True

    row = _find_crossings(framed, rows, columns, owner, column, cell, before / (before - after), boxes, inside[at + 1])
    # In COCO's order, column after column: [c].
    position = (columns.first[owner] + column - columns.offset[owner]) * height + rows.first[owner] + row
    runs = encode_changes(owner, position, len(masks), height, width)
    for index in np.flatnonzero(unsure):
        runs[index] = encode_columns(*paste_columns(masks[index], boxes[index], height, width), height, width)
    return runs


def _find_crossings(framed, rows, columns, owner, column, cell, share, boxes, rising):
    """Finds, for each crossing of the threshold, the first pixel row of the box beyond it.

    Args:
        framed: [n, M + 2, M + 2] float32, masks with a frame of zeros.
        rows, columns: _Axis.
        owner, column, cell: [c] int64, the crossing's mask, its index in `columns`, the cell above it.
        share: [c], the position of the crossing between that cell (0) and the next one (1).
        boxes: [n, 4] float32.
        rising: [c] bool, True if the mask is inside beyond the crossing.

    Returns:
        [c] int64; the row after the cell's last one if all its pixels lie before the crossing.
    """
    if not len(rows.owner):
        return np.zeros(len(owner), np.int64)
    count, side = len(framed), framed.shape[1]
    # The number of pixel rows of a mask before each cell: [n, M + 3].
    pixels = np.bincount(rows.owner * side + rows.lower, minlength=count * side).reshape(count, side)
    starts = np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(pixels, axis=1)], axis=1)
    low, high = starts[owner, cell], starts[owner, cell + 1]  # [c], the rows between the two cells
    y1, y2 = boxes[owner, 0].astype(np.float64), boxes[owner, 2].astype(np.float64)
    exact = (cell + share - 0.5) * (y2 - y1) / (side - 2) + y1 - 0.5 - rows.first[owner]
    guess = np.clip(np.nan_to_num(np.ceil(exact)), low, high).astype(np.int64)

    corner = (owner * side + cell) * side + columns.lower[column]
    corners = [framed.ravel()[corner + step] for step in (0, side, 1, side + 1)]  # 4 cells around the crossing, [c]
    across = columns.distance[column]

    def is_beyond(row):
        """Computes the pixel [c] of a row exactly as in `paste_columns`."""
        down = rows.distance[np.minimum(rows.offset[owner] + row, len(rows.distance) - 1)]
        left = corners[0] * (1 - down) + corners[1] * down
        right = corners[2] * (1 - down) + corners[3] * down
        return (left * (1 - across) + right * across >= MASK_THRESHOLD) == rising

    # Rounding moves the guess by at most one row.
    sooner = (guess > low) & is_beyond(np.maximum(guess - 1, 0))
    later = (guess < high) & ~is_beyond(guess)
    return guess - sooner + later


def encode_changes(
    owner: np.ndarray, position: np.ndarray, count: int, height: int, width: int
) -> list[dict[str, Any]]:
    """Encodes masks by the pixels where they change.

    Args:
        owner: [c] int64, the mask that changes, ascending.
        position: [c] int64, the pixel in COCO's order, ascending within a mask.
        count: int, number of masks.
        height, width: ints, the image's size.

    Returns:
        List of `count` dicts as in `encode_masks`.
    """
    size = height * width
    key = owner * (size + 1) + position  # ascending over all masks
    # Changes at the same pixel cancel in pairs: an odd number of them is one change, an even number none.
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
    odd = np.diff(np.append(first, len(key))) % 2 == 1
    key, owner = key[first[odd]], owner[first[odd]]
    ends = np.searchsorted(owner, np.arange(count), side="right")  # [count], number of changes up to each mask
    masks = np.arange(count)
    # Every mask's start, changes and end, one mask after the other; their differences are the run lengths.
    edges = np.empty(len(key) + 2 * count, np.int64)
    edges[np.arange(len(key)) + 2 * owner + 1] = key
    edges[np.append(0, ends[:-1]) + 2 * masks] = masks * (size + 1)
    edges[ends + 2 * masks + 1] = masks * (size + 1) + size
    lengths = np.diff(edges)
    counts = []
    for start, end in zip(np.append(0, ends[:-1]) + 2 * masks, ends + 2 * masks + 1, strict=True):
        # A change at the end of the image gives an empty last run, which COCO leaves out.
        counts.append(lengths[start : end - 1 if end > start + 1 and lengths[end - 1] == 0 else end])
    return _compress(counts, height, width)


def _compress(counts, height, width):
    if not counts:
        return []
    runs = coco_mask.frPyObjects([{"size": [height, width], "counts": c} for c in counts], height, width)
    return [{"size": [height, width], "counts": run["counts"].decode("ascii")} for run in runs]


def _interpolate(start, end, size, cells):
    """Computes the _Axis of boxes that extend from start [n] to end [n], in an image of that size."""
    some = end > start
    first = np.where(some, np.clip(np.ceil(start.astype(np.float64) - 0.5), 0, size), 0).astype(np.int64)
    last = np.where(some, np.clip(np.floor(end.astype(np.float64) + 0.5), 0, size), 0).astype(np.int64)
    count = np.maximum(last - first, 0)
    offset = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(start)), count)
    position = (np.arange(offset[-1]) - offset[owner] + first[owner]).astype(np.float32)  # [pixels], in the image
    # mmdetection's order of operations, via [-1, 1], so that float32 rounds in the same way.
    position += np.float32(0.5)
    position -= start[owner]
    position /= (end - start)[owner]
    position *= 2
    position -= 1
    position += 1
    position *= cells
    position -= 1
    position /= 2  # in cells; 0 is the first cell's center
    lower = np.floor(position)
    position -= lower
    return _Axis(first, offset, owner, np.clip(lower, -1, cells - 1).astype(np.int64) + 1, position)


def _blend(values, lower, distance):
    """Interpolates between rows of values [r, w]: [p, w] for lower [p] and distance [p, 1].

    Whole rows are gathered, since single elements take several times as long.
    """
    blended = values.take(lower, axis=0)
    blended *= 1 - distance
    upper = values.take(lower + 1, axis=0)
    upper *= distance
    blended += upper
    return blended


def paste_columns(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Pastes one mask into its box, pixel by pixel: the plain implementation.

    Args:
        mask: [M, M] float32 probabilities.
        box: [4] float32, in pixels of the image.
        height, width: ints, the image's size.

    Returns:
        columns: [w, h] bool, transposed, the pixels whose centers lie in both box and image; empty for an empty box.
        top, left: ints, the row and the column of the first pixel in the image.
    """
    box = np.asarray(box, np.float32)
    rows = _interpolate(box[0:1], box[2:3], height, len(mask))
    columns = _interpolate(box[1:2], box[3:4], width, len(mask))
    pasted = _blend(np.pad(np.asarray(mask, np.float32), 1), rows.lower, rows.distance[:, None])  # [h, M + 2]
    pasted = _blend(np.ascontiguousarray(pasted.T), columns.lower, columns.distance[:, None])  # [w, h]
    return pasted >= MASK_THRESHOLD, int(rows.first[0]), int(columns.first[0])


def encode_columns(columns: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Encodes an image that is zero except for one part as run lengths.

    Args:
        columns: [w, h] bool, the part, transposed.
        top, left: ints, the row and the column of the part's first pixel in the image.
        height, width: ints, the image's size.

    Returns:
        {"size": [height, width], "counts": str}, with the string of `pycocotools.mask.encode`.
    """
    # A zero before and after each column makes every run begin and end inside its own column.
    framed = np.pad(columns, [(0, 0), (1, 1)]).ravel()
    column, row = np.divmod(np.flatnonzero(framed[1:] != framed[:-1]), columns.shape[1] + 2)
    position = (column + left) * height + row + top
    return encode_changes(np.zeros(len(position), np.int64), position, 1, height, width)[0]
