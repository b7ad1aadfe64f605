"""A COCO mask as a small grid of cells around the object: what the network is trained against.

Before it: the run lengths of a record. After it: `Truth.masks` and `Truth.mask_frames`. The cells do not change
when the image is resized or flipped; only their frame does.
"""

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def crop_masks(rles, height, width, cells):
    """Crops each mask to its object and samples the crop.

    The outermost cells are always 0: the frame is the mask's own extent and at least one and a half cells more on
    each side. On 250 COCO objects the 28 x 28 targets that RoIAlign makes of 112 x 112 cells differ in 0.09 % from
    those that it makes of the whole bitmap, of 64 x 64 cells in 0.15 % (nearest sampling: 0.7 % and 1.1 %).

    Args:
      rles: sequence of G bytes, COCO's compressed run lengths; b"" where there is no mask.
      height, width: int, pixels, of the image.
      cells: int, M.

    Returns:
      masks [G, M, M] uint8, coverage of each cell, 0 ... 255; frames [G, 4] float32 [y1, x1, y2, x2] in pixels, the
      box that the cells span. Both 0 where there is no mask.
    """
    masks = np.zeros((len(rles), cells, cells), np.uint8)
    frames = np.zeros((len(rles), 4), np.float32)
    for index, ends in enumerate(_run_ends(rles)):
        rle = {"size": [height, width], "counts": rles[index]}
        left, top, w, h = (int(side) for side in coco_mask.toBbox(rle)) if rles[index] else (0, 0, 0, 0)
        if w == 0 or h == 0:
            continue
        bitmap = _draw_columns(ends, height, left, w)[:, top : top + h]
        masks[index], (columns, rows) = _sample(bitmap, cells)
        frames[index] = (top - rows, left - columns, top + h + rows, left + w + columns)
    return masks, frames


def _run_ends(rles):
    """Where each run of pixels ends, counted column after column: a list of integer arrays, one for each mask.

    pycocotools' `rleFrString` in NumPy, all masks of an image at once: its own `decode` always draws the whole image,
    which is most of the cost of a mask. A number is written in characters of five bits, low bits first, a sixth bit
    saying that more follow and the last one's fifth bit being the sign; from the fourth number on it is the
    difference from the number before the last one.
    """
    characters = np.frombuffer(b"".join(rles), np.uint8).astype(np.int64) - 48
    if not len(characters):
        return [characters] * len(rles)
    lasts = np.flatnonzero(characters < 32)
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    lengths = lasts + 1 - firsts
    shifts = 5 * (np.arange(len(characters)) - np.repeat(firsts, lengths))
    numbers = np.add.reduceat((characters & 31) << shifts, firsts)
    numbers -= ((characters[lasts] & 16) > 0) * (1 << 5 * lengths)
    ends = []
    for runs in np.split(numbers, np.searchsorted(lasts, np.cumsum([len(counts) for counts in rles])[:-1])):
        runs[1::2] = np.cumsum(runs[1::2])
        runs[2::2] = np.cumsum(runs[2::2])
        ends.append(np.cumsum(runs))
    return ends


def _draw_columns(ends, height, left, width):
    """The columns left ... left + width of a mask, [width, height] uint8: 255 inside, 0 outside."""
    ends = np.clip(ends - left * height, 0, width * height)
    values = np.zeros(len(ends), np.uint8)
    values[1::2] = 255
    return np.repeat(values, np.diff(ends, prepend=0)).reshape(width, height)


def _sample(bitmap, cells):
    """bitmap [w, h] uint8 -> cells [M, M] uint8, row by row, and the margins in pixels (horizontal, vertical)."""
    # Pillow's triangle filter reaches one cell, or one pixel where that is more, from a cell's centre: a margin of
    # one and a half leaves nothing to the outermost cells.
    w, h = bitmap.shape
    columns, rows = (max(1.0, 1.5 * side / (cells - 3)) for side in bitmap.shape)
    left, top = int(np.ceil(columns)), int(np.ceil(rows))
    canvas = np.zeros((w + 2 * left, h + 2 * top), np.uint8)
    canvas[left : left + w, top : top + h] = bitmap
    # The bitmap lies in memory column by column, so its columns are Pillow's rows.
    frame = (top - rows, left - columns, top + h + rows, left + w + columns)
    image = Image.frombuffer("L", canvas.shape[::-1], canvas, "raw", "L", 0, 1)
    sampled = image.resize((cells, cells), Image.Resampling.BILINEAR, box=frame)
    return np.asarray(sampled).T, (columns, rows)
