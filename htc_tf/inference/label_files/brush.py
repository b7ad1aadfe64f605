"""Run lengths of Label Studio's brush: a packed bit stream of the RGBA values of an image.

A header gives the number of values (32 bits), the bits of a value minus 1 (5 bits), and the bits of four kinds of
lengths minus 1 (4 bits each). Blocks follow: 1 bit, which is 1 if one value is repeated; 2 bits for the kind of the
length; the length minus 1; then the value.
Format: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack.
"""

from typing import Any

import numpy as np

from htc_tf.inference.label_files.masks import crop_mask

VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
CHANNELS = 4
LONGEST = 1 << LENGTH_BITS[-1]  # values in a block


def encode(run_lengths: dict[str, Any]) -> list[int]:
    """Returns the bytes, a list of ints, of a mask that is not empty, whose four channels are 255 inside.

    Args:
        run_lengths: COCO run lengths {"size": [height, width], "counts": str}.
    """
    height, width = run_lengths["size"]
    top, left, mask = crop_mask(run_lengths)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))), axis=1)  # [h, w + 1] bool, at the first pixel of each run
    row, column = np.nonzero(edges)
    positions = (row + top) * width + column + left  # in the image, row after row
    lengths = np.diff(positions, prepend=0, append=height * width)  # background and mask in turn
    bits = [f"{CHANNELS * height * width:032b}{VALUE_BITS - 1:05b}", *(f"{size - 1:04b}" for size in LENGTH_BITS)]
    for number, length in enumerate((CHANNELS * lengths).tolist()):
        value = f"{number % 2 * 255:0{VALUE_BITS}b}"
        whole, rest = divmod(length, LONGEST)
        bits += [block(LONGEST) + value] * whole
        if rest:
            bits.append(block(rest) + value)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def block(length: int) -> str:
    """Returns the bits before the repeated value."""
    kind = next(kind for kind, size in enumerate(LENGTH_BITS) if length <= 1 << size)
    return f"1{kind:02b}{length - 1:0{LENGTH_BITS[kind]}b}"
