"""Run lengths of Label Studio's brush: a packed bit stream of the RGBA values of an image.

`htc_tf.inference.label_files.brush` describes the format and writes it. Other programs also write blocks of values that
differ: their first bit is 0, and as many values follow as the length says. Values are in the order of rows, columns and
channels; the mask is where the fourth channel, alpha, is above 0.
"""

from typing import Any

import numpy as np

from ..checks import Rejected

CHANNELS = 4
PADDING = b"\0" * 8  # so that a value may be read as 8 bytes


def decode(values: Any, height: int, width: int) -> np.ndarray:
    """Returns the mask, [height, width] uint8 of 0 and 1.

    Args:
        values: The stream, a list of bytes as integers.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    Raises:
        Rejected: It is not such a stream, or is of another size.
    """
    try:
        data = bytes([*values])  # bytes(number) would allocate that many
    except (TypeError, ValueError):
        raise Rejected("rle_malformed", "rle is not a list of integers from 0 to 255") from None
    end, stream = 8 * len(data), data + PADDING

    def read(bits):
        nonlocal place
        word = int.from_bytes(stream[place >> 3 : (place >> 3) + 8], "big")
        word = word >> (64 - (place & 7) - bits) & ((1 << bits) - 1)
        place += bits
        if place > end:
            raise Rejected("rle_malformed", f"rle ends after {len(data):,} bytes, within a run")
        return word

    place = 0
    total, value_bits = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != height * width * CHANNELS:
        raise Rejected("rle_size_differs", f"rle holds {total:,} values, not {CHANNELS} for each of {width} x {height}")
    alpha = np.zeros(height * width, np.uint8)
    start = 0
    while start < total:
        repeated = read(1)
        stop = start + 1 + read(lengths[read(2)])
        if stop > total:
            raise Rejected("rle_malformed", f"a run of rle ends at value {stop:,} of {total:,}")
        # The alpha of pixel p is value 4 p + 3: these values hold that of the pixels start // 4 ... stop // 4 - 1.
        if repeated:
            if read(value_bits):
                alpha[start // CHANNELS : stop // CHANNELS] = 1
        else:
            for index in range(start, stop):
                if read(value_bits) and index % CHANNELS == CHANNELS - 1:
                    alpha[index // CHANNELS] = 1
        start = stop
    return alpha.reshape(height, width)
