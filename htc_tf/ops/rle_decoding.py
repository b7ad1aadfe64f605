"""COCO run lengths from files and servers, in NumPy: decoded, and validated before pycocotools reads them.

pycocotools does not validate them itself: it writes beyond its memory, or never ends, if they do not fill the image.
"""

from collections.abc import Sequence
from numbers import Integral
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
    whole = all(isinstance(side, Integral) and int(side) > 0 for side in size)
    if not whole or list(size) != [height, width] or height * width >= MAX_PIXELS:
        return False
    counts = mask.get("counts")
    if isinstance(counts, (str, bytes)):
        runs = decode_counts(counts)
        # A run of more than the image: sums of very many could overflow to the right one.
        return runs is not None and _are_within(runs, height * width) and int(runs.sum()) == height * width
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
        numbers, _ = _read_numbers(counts.encode("ascii") if isinstance(counts, str) else counts)
    except UnicodeEncodeError:
        return None
    if numbers is None:
        return None
    # Undo the differences: odd runs from the first, even runs from the third number on are running sums.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def decode_edges(encoded: Sequence[bytes], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes and validates the compressed run lengths of all masks of an image at once.

    Args:
        encoded: n > 0 bytes objects, none of them empty.
        pixels: Int, pixels of the image.
    Returns:
        ends: [r] int64, the end of each run, in pixels counted column by column, mask after mask.
        starts: [n + 1], index of each mask's first run in `ends`.
    Raises:
        ValueError: A string is invalid, or its runs do not fill the image.
    """
    runs, lasts = _read_numbers(b"".join(encoded))
    # No number may extend into the next mask.
    if runs is not None and all(counts[-1] < FIRST + MORE for counts in encoded):
        starts = np.searchsorted(lasts, np.cumsum([0, *map(len, encoded)]))
        places = np.arange(len(runs)) - np.repeat(starts[:-1], np.diff(starts))  # index of a run within its mask
        # As in `decode_counts`.
        for chain in (places % 2 == 1, (places % 2 == 0) & (places > 0)):
            runs[chain] = _segment_cumsum(runs * chain, starts)[chain]
        ends = _segment_cumsum(runs, starts)
        if _are_within(runs, pixels) and (ends[starts[1:] - 1] == pixels).all():
            return ends, starts
    raise ValueError(f"they are no runs of the image's {pixels} pixels")


def _are_within(runs, pixels):
    return bool(runs.min() >= 0 and runs.max() <= pixels)


def _segment_cumsum(numbers, starts):
    """Returns cumulative sums that restart at each start."""
    sums = np.cumsum(numbers)
    return sums - np.repeat((sums - numbers)[starts[:-1]], np.diff(starts))


def _read_numbers(characters):
    """Returns the numbers [n] int64 of a bytes object and the index of each one's last character; or None, None."""
    codes = np.frombuffer(characters, np.uint8).astype(np.int64)
    codes -= FIRST
    lasts = np.flatnonzero(codes < MORE)  # [n]
    if not len(lasts) or lasts[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() >= 2 * MORE:
        return None, None
    firsts = np.zeros_like(lasts)
    firsts[1:] = lasts[:-1] + 1
    lengths = lasts + 1 - firsts  # [n], characters of each number
    if lengths.max() > MAX_CHARACTERS:
        return None, None
    shifts = BITS * (np.arange(len(codes)) - np.repeat(firsts, lengths))  # [characters]
    numbers = np.add.reduceat((codes & (MORE - 1)) << shifts, firsts)
    numbers -= (codes[lasts] & SIGN > 0) * (1 << BITS * lengths)  # two's complement
    return numbers, lasts


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
