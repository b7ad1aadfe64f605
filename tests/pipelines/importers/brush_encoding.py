"""Label Studio's brush encoding written bit by bit as text, for tests of its decoding."""

import itertools

import numpy as np


def bits(number, length):
    return format(int(number), f"0{length}b")


def encode(mask, value=255, value_bits=8, lengths=(3, 4, 8, 16), literal=0.0, seed=0):
    """Returns the bytes of a mask as a list.

    Args:
        mask: [H, W] of 0 and 1.
        value: Value of the channels where the mask is 1.
        value_bits: Bits of a value.
        lengths: Bits of the four kinds of run lengths.
        literal: Share of the blocks that list their values one by one.
        seed: Random seed of that choice, and of the kinds of lengths and the length of blocks.
    """
    rng = np.random.default_rng(seed)
    values = np.repeat(np.ravel(mask).astype(np.int64) * value, 4).tolist()
    text = [bits(len(values), 32), bits(value_bits - 1, 5), *(bits(length - 1, 4) for length in lengths)]
    start = 0
    while start < len(values):
        kind = int(rng.integers(0, 4))
        longest = 1 << lengths[kind]
        if rng.random() < literal:
            block = values[start : start + int(rng.integers(1, min(longest, 50) + 1))]
            text += [
                "0",
                bits(kind, 2),
                bits(len(block) - 1, lengths[kind]),
                *(bits(item, value_bits) for item in block),
            ]
        else:
            _, run = next(itertools.groupby(values[start : start + longest]))
            block = list(run)
            text += ["1", bits(kind, 2), bits(len(block) - 1, lengths[kind]), bits(block[0], value_bits)]
        start += len(block)
    joined = "".join(text)
    joined += "0" * (-len(joined) % 8)
    return [int(joined[place : place + 8], 2) for place in range(0, len(joined), 8)]
