"""Masks into the image as COCO run lengths, without drawing them: only where a mask's outline passes is looked at.

Before: a detection's 28 x 28 probabilities and its box. After: `inference.results` hands the run lengths on.

Pasting and encoding were the slow part of a COCO evaluation. COCO counts runs down the columns, and down a column an
interpolated mask is a straight line from cell to cell: it crosses 0.5 at most once in each. So the 28 cells of a column
tell where its runs change, however many pixels they span, and only the pixels beside a change are computed. They are
computed as `paste_columns` does, the plain way, which also takes the masks whose crossings rounding could move: the two
are equal bit for bit.
"""

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

MASK_THRESHOLD = np.float32(0.5)
CHUNK = 8192  # columns at once: what they take stays in the cache
FARTHEST = 1e9  # pixels; float32 cannot place pixels in a box that reaches beyond, or to infinity, or is NaN
ROUNDING = 1e-6  # several times what float32 may do to an interpolated probability


class _Axis(NamedTuple):
    """Every mask's pixels along one axis, one mask after the other."""

    first: np.ndarray  # [n], the first pixel in the image whose centre lies in the box
    offset: np.ndarray  # [n + 1], where each mask's pixels begin in the arrays below
    owner: np.ndarray  # [pixels], the mask
    lower: np.ndarray  # [pixels], the cell before the pixel's centre; cells are framed by a zero
    distance: np.ndarray  # [pixels] float32, from that cell to the next


def encode_masks(masks, boxes, height, width):
    """Resizes masks into their boxes, cuts them at 0.5 and encodes them as run lengths of the whole image.

    The same pixels as mmdetection's paste (`FCNMaskHead`): bilinear between the centres of cells, zero beyond the mask.

    Args:
        masks: [n, M, M] float32 probabilities, rows then columns.
        boxes: [n, 4] float32, in pixels of the image; may reach beyond it.
        height, width: of the image.

    Returns:
        n dicts {"size": [height, width], "counts": str}, with the very strings that `pycocotools.mask.encode` gives.
    """
    masks, boxes = np.asarray(masks, np.float32), np.asarray(boxes, np.float32)
    boxes = np.where((np.abs(boxes) < FARTHEST).all(axis=1, keepdims=True), boxes, np.float32(0))
    widths = np.maximum(np.minimum(boxes[:, 3], width) - np.maximum(boxes[:, 1], 0), 0)
    parts = np.floor(np.cumsum(widths) / CHUNK)
    runs = []
    for part in np.unique(parts):
        chosen = parts == part
        runs += _encode_part(masks[chosen], boxes[chosen], height, width)
    return runs


def _encode_part(masks, boxes, height, width):
    cells = masks.shape[1]
    framed = np.pad(masks, [(0, 0), (1, 1), (1, 1)])
    rows = _interpolate(boxes[:, 0], boxes[:, 2], height, cells)
    columns = _interpolate(boxes[:, 1], boxes[:, 3], width, cells)
    # The mask at its own rows but the image's columns; the outermost rows are the frame's zeros.
    stretched = framed.transpose(0, 2, 1).reshape(-1, cells + 2)
    knots = _blend(stretched, columns.owner * (cells + 2) + columns.lower, columns.distance[:, None])
    knots -= MASK_THRESHOLD
    unsure = np.zeros(len(masks), bool)
    unsure[columns.owner[~(np.abs(knots) >= ROUNDING).all(axis=1)]] = True

    inside = (knots >= 0).ravel()
    at = np.flatnonzero(inside[1:] != inside[:-1])
    column, cell = np.divmod(at, cells + 2)
    owner = columns.owner[column]
    before, after = knots.ravel()[at], knots.ravel()[at + 1]
    pixels_per_cell = (boxes[:, 2] - boxes[:, 0]) / cells
    unsure[owner[~(np.abs(after - before) > 4 * ROUNDING * pixels_per_cell[owner])]] = True

    row = _find_crossings(framed, rows, columns, owner, column, cell, before / (before - after), boxes, inside[at + 1])
    position = (columns.first[owner] + column - columns.offset[owner]) * height + rows.first[owner] + row
    runs = _encode_changes(owner, position, len(masks), height, width)
    for index in np.flatnonzero(unsure):
        runs[index] = encode_columns(*paste_columns(masks[index], boxes[index], height, width), height, width)
    return runs


def _find_crossings(framed, rows, columns, owner, column, cell, share, boxes, rising):
    """For each cell of a column in which the mask crosses 0.5: the first pixel row of the box that is beyond.

    Args:
        framed: [n, M + 2, M + 2] float32, the masks with a frame of zeros.
        rows, columns: _Axis.
        owner, column, cell: [c], the crossing's mask, its place in `columns`, the cell above it.
        share: [c], where between that cell and the next the crossing is.
        boxes: [n, 4] float32.
        rising: [c] bool, whether what is beyond is inside the mask.

    Returns:
        [c] int64; the row after the cell's last where all its pixels come before the crossing.
    """
    if not len(rows.owner):
        return np.zeros(len(owner), np.int64)
    count, side = len(framed), framed.shape[1]
    # How many pixels of a mask lie before each cell.
    pixels = np.bincount(rows.owner * side + rows.lower, minlength=count * side).reshape(count, side)
    starts = np.concatenate([np.zeros((count, 1), np.int64), np.cumsum(pixels, axis=1)], axis=1)
    low, high = starts[owner, cell], starts[owner, cell + 1]
    y1, y2 = boxes[owner, 0].astype(np.float64), boxes[owner, 2].astype(np.float64)
    exact = (cell + share - 0.5) * (y2 - y1) / (side - 2) + y1 - 0.5 - rows.first[owner]
    guess = np.clip(np.nan_to_num(np.ceil(exact)), low, high).astype(np.int64)

    corner = (owner * side + cell) * side + columns.lower[column]
    corners = [framed.ravel()[corner + step] for step in (0, side, 1, side + 1)]
    across = columns.distance[column]

    def is_beyond(row):
        down = rows.distance[np.minimum(rows.offset[owner] + row, len(rows.distance) - 1)]
        left = corners[0] * (1 - down) + corners[1] * down
        right = corners[2] * (1 - down) + corners[3] * down
        return (left * (1 - across) + right * across >= MASK_THRESHOLD) == rising

    sooner = (guess > low) & is_beyond(np.maximum(guess - 1, 0))
    later = (guess < high) & ~is_beyond(guess)
    return guess - sooner + later


def _encode_changes(owner, position, count, height, width):
    """Run lengths of `count` masks whose pixels, in COCO's order, change at `position`, ascending, [c] int64 each."""
    size = height * width
    key = owner * (size + 1) + position
    # Where changes fall together there is no pixel between them: two undo each other.
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])[: len(key)])
    odd = np.diff(np.append(first, len(key))) % 2 == 1
    key, owner = key[first[odd]], owner[first[odd]]
    ends = np.searchsorted(owner, np.arange(count), side="right")
    masks = np.arange(count)
    edges = np.empty(len(key) + 2 * count, np.int64)
    edges[np.arange(len(key)) + 2 * owner + 1] = key
    edges[np.append(0, ends[:-1]) + 2 * masks] = masks * (size + 1)
    edges[ends + 2 * masks + 1] = masks * (size + 1) + size
    lengths = np.diff(edges)
    counts = []
    for start, end in zip(np.append(0, ends[:-1]) + 2 * masks, ends + 2 * masks + 1, strict=True):
        # A run that ends with the image is the last.
        counts.append(lengths[start : end - 1 if end > start + 1 and lengths[end - 1] == 0 else end])
    return _compress(counts, height, width)


def _compress(counts, height, width):
    if not counts:
        return []
    runs = coco_mask.frPyObjects([{"size": [height, width], "counts": c} for c in counts], height, width)
    return [{"size": [height, width], "counts": run["counts"].decode("ascii")} for run in runs]


def _interpolate(start, end, size, cells):
    """The pixels whose centres lie between start and end, [n] each, and in the image: an _Axis."""
    some = end > start
    first = np.where(some, np.clip(np.ceil(start.astype(np.float64) - 0.5), 0, size), 0).astype(np.int64)
    last = np.where(some, np.clip(np.floor(end.astype(np.float64) + 0.5), 0, size), 0).astype(np.int64)
    count = np.maximum(last - first, 0)
    offset = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(start)), count)
    position = (np.arange(offset[-1]) - offset[owner] + first[owner]).astype(np.float32)
    # mmdetection's order of operations, by way of [-1, 1], so that float32 rounds alike.
    position += np.float32(0.5)
    position -= start[owner]
    position /= (end - start)[owner]
    position *= 2
    position -= 1
    position += 1
    position *= cells
    position -= 1
    position /= 2
    lower = np.floor(position)
    position -= lower
    return _Axis(first, offset, owner, np.clip(lower, -1, cells - 1).astype(np.int64) + 1, position)


def _blend(values, lower, distance):
    """Between rows of values: whole rows are gathered, since taking single elements is several times slower."""
    blended = values.take(lower, axis=0)
    blended *= 1 - distance
    upper = values.take(lower + 1, axis=0)
    upper *= distance
    blended += upper
    return blended


def paste_columns(mask, box, height, width):
    """The plain way: one mask drawn inside its box, pixel by pixel.

    Args:
        mask: [M, M] float32 probabilities.
        box: [4] float32, in pixels of the image.
        height, width: of the image.

    Returns:
        (columns, top, left): a bool array [w, h], transposed, of the pixels whose centres lie in both box and image;
        its first row and column in the image. Empty for an empty box.
    """
    box = np.asarray(box, np.float32)
    rows = _interpolate(box[0:1], box[2:3], height, len(mask))
    columns = _interpolate(box[1:2], box[3:4], width, len(mask))
    drawn = _blend(np.pad(np.asarray(mask, np.float32), 1), rows.lower, rows.distance[:, None])
    drawn = _blend(np.ascontiguousarray(drawn.T), columns.lower, columns.distance[:, None])
    return drawn >= MASK_THRESHOLD, int(rows.first[0]), int(columns.first[0])


def encode_columns(columns, top, left, height, width):
    """COCO run lengths of an image that is zero but for a part.

    Args:
        columns: [w, h] bool, the part, transposed.
        top, left: where the part's first pixel lies in the image.
        height, width: of the image.

    Returns:
        {"size": [height, width], "counts": str}, the very string that `pycocotools.mask.encode` gives.
    """
    # A zero before and after each column makes every run begin and end inside its own.
    framed = np.pad(columns, [(0, 0), (1, 1)]).ravel()
    column, row = np.divmod(np.flatnonzero(framed[1:] != framed[:-1]), columns.shape[1] + 2)
    position = (column + left) * height + row + top
    return _encode_changes(np.zeros(len(position), np.int64), position, 1, height, width)[0]
