"""COCO run lengths from files and servers, in NumPy: decoded, and validated before pycocotools reads them.

pycocotools does not validate them itself: it writes beyond its memory, or never ends, if they do not fill the image.
"""

import numbers
from typing import Any

import numpy as np

from htc_tf.errors import UserError

# A character's code is FIRST plus 6 bits: BITS bits of the number, whose highest bit is SIGN in the last character,
# and MORE if another character follows.
FIRST, BITS, MORE, SIGN = 48, 5, 32, 16
MAX_CHARACTERS = 7  # of a number
MAX_PIXELS = 2**32  # of an image: pycocotools counts in 32 bits


def is_valid_rle(mask: object, height: int, width: int) -> bool:
    """True if `mask` is {"size": [height, width], "counts": run lengths of the whole image, as a list or a string}."""
    if not isinstance(mask, dict) or not isinstance(size := mask.get("size"), (list, tuple)):
        return False
    whole = all(isinstance(side, numbers.Integral) and int(side) > 0 for side in size)
    if not whole or list(size) != [height, width] or height * width >= MAX_PIXELS:
        return False
    counts = mask.get("counts")
    if isinstance(counts, (str, bytes)):
        runs = decode_counts(counts)
        return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == height * width
    return isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts) and sum(counts) == height * width


def decode_counts(counts: str | bytes) -> np.ndarray | None:
    """Decodes COCO's compressed run lengths (rleFrString in cocoapi's common/maskApi.c).

    Args:
        counts: str or bytes; five bits per character, the lowest first; from the fourth run on, the difference to the
            run before the previous one.

    Returns:
        [n] int64 run lengths; None if the string is invalid.
    """
    try:
        codes = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else counts, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        return None
    codes -= FIRST
    ends = np.flatnonzero(codes < MORE)  # [n], the last character of each number
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() >= 2 * MORE:
        return None
    lengths = np.diff(ends, prepend=-1)  # [n], characters of each number
    if lengths.max() > MAX_CHARACTERS:
        return None
    starts = ends + 1 - lengths
    shifts = BITS * (np.arange(len(codes)) - np.repeat(starts, lengths))  # [characters]
    values = np.add.reduceat((codes & (MORE - 1)) << shifts, starts)
    values -= np.where(codes[ends] & SIGN, 1 << (BITS * lengths), 0)  # two's complement
    # Undo the differences: odd runs from the first, even runs from the third number on are running sums.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def find_edges(mask: dict[str, Any]) -> np.ndarray:
    """Returns the pixels in COCO's order at which the runs of a mask end, [n] int64: background and mask in turn.

    Args:
        mask: COCO run lengths {"size": [height, width], "counts": str}.

    Raises:
        UserError: The string is invalid.
    """
    runs = decode_counts(mask["counts"])
    if runs is None:
        raise UserError(f"invalid run lengths {mask['counts'][:40]!r}: give those of pycocotools.mask.encode")
    return np.cumsum(runs)
