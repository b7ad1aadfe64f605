"""COCO's run lengths from a file or a server, checked before pycocotools reads them: it does not check by itself, and
writes beyond its memory, or never ends, where they do not fill the image.

Before: `evaluation.coco_inputs` and `inference.exported_outputs` read them. After: pycocotools decodes and compares.
"""

import numbers

import numpy as np

FIRST, BITS, MORE, SIGN = 48, 5, 32, 16  # of a character: that of zero, its bits, more follow, the number is negative
LONGEST = 7  # characters of a number
PIXELS = 2**32  # of an image: pycocotools counts in 32 bits


def is_sound(mask, height, width):
    """Whether `mask` is {"size": [height, width], "counts": run lengths of the whole image, as a list or a string}."""
    if not isinstance(mask, dict) or not isinstance(size := mask.get("size"), (list, tuple)):
        return False
    whole = all(isinstance(side, numbers.Integral) and side > 0 for side in size)
    if not whole or list(size) != [height, width] or height * width >= PIXELS:
        return False
    counts = mask.get("counts")
    if isinstance(counts, (str, bytes)):
        runs = decode_runs(counts)
        return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == height * width
    return isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts) and sum(counts) == height * width


def decode_runs(counts):
    """COCO's compressed string -> [n] int64 run lengths; None where it is none.

    Five bits a character, the lowest first; from the fourth run on, the difference to the last run but one (rleFrString
    in cocoapi's common/maskApi.c).
    """
    try:
        codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        return None
    codes -= FIRST
    ends = np.flatnonzero(codes < MORE)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() >= 2 * MORE:
        return None
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > LONGEST:
        return None
    starts = ends + 1 - lengths
    shifts = BITS * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & (MORE - 1)) << shifts, starts)
    values -= np.where(codes[ends] & SIGN, 1 << (BITS * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
