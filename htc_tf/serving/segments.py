"""Walks a JPEG's segments and a PNG's chunks up to the pixels, in a TensorFlow graph.

Called by `serving.decode`, which counts a JPEG's scans, and `serving.orientation`, which reads EXIF.
"""

import numpy as np
import tensorflow as tf

MOST_SEGMENTS = 64  # before the pixels
PADDING, SCAN = 0xFF, 0xDA
# Start-of-frame markers; 0xC4, 0xC8 and 0xCC between them mean something else.
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
SEQUENTIAL = (0xC0, 0xC1)
NOWHERE = np.int64(-1)
CHUNK_ENDS = (b"IDAT", b"IEND")


def number(encoded, position, length, order=">"):
    """The unsigned number in `length` bytes, ">" for the highest first: [] int64. Bytes beyond the end count as 0."""
    digits = tf.cast(tf.io.decode_raw(cut(encoded, position, length), tf.uint8), tf.int64)
    digits = tf.pad(digits, [[0, length - tf.size(digits)]])
    powers = [256**i for i in range(length)]
    return tf.reduce_sum(digits * tf.constant(powers[::-1] if order == ">" else powers, tf.int64))


def cut(encoded, position, length):
    """As many of the `length` bytes from `position` on as the file has: [] string. Both are of one integer type."""
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    place = tf.clip_by_value(tf.cast(tf.stack([position, length]), tf.int64), 0, size)
    return tf.strings.substr(encoded, place[0], place[1])


def find(encoded, start, read, wanted):
    """The position of the first segment that is wanted, [] int64; -1 where none of the first MOST_SEGMENTS is.

    Args:
        encoded: [] string.
        start: the position of the first segment.
        read: a position -> (what to tell a segment by, position of the next one, whether the walk ends here).
        wanted: what `read` tells a segment by -> [] bool.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)

    def unfinished(position, found, segments):
        return (found < 0) & (position >= 0) & (position < size) & (segments < MOST_SEGMENTS)

    def step(position, _, segments):
        kind, following, is_last = read(position)
        found = tf.where(wanted(kind), position, NOWHERE)
        return tf.where(is_last, size, following), found, segments + 1

    loop = (tf.constant(start, tf.int64), tf.constant(NOWHERE), tf.constant(0))
    return tf.while_loop(unfinished, step, loop, parallel_iterations=1)[1]


def find_segment(encoded, wanted):
    """A JPEG's first segment that is wanted: (marker, start of its content [] string) -> [] bool. See `find`."""

    def read(position):
        mark, marker = number(encoded, position, 1), number(encoded, position + 1, 1)
        # Any number of 0xFF may stand before a marker.
        padded = marker == PADDING
        following = position + tf.where(padded, tf.constant(1, tf.int64), 2 + number(encoded, position + 2, 2))
        is_segment = mark == 0xFF
        kind = tf.where(is_segment, marker, NOWHERE), cut(encoded, position + 4, 6)
        return kind, following, ~is_segment | (marker == SCAN)

    return find(encoded, 2, read, lambda kind: wanted(*kind))


def find_chunk(encoded, name):
    """A PNG's first chunk of that name before its pixels. See `find`."""

    def read(position):
        following = position + 12 + number(encoded, position, 4)
        kind = cut(encoded, position + 4, 4)
        return kind, following, tf.reduce_any([kind == end for end in CHUNK_ENDS])

    return find(encoded, 8, read, lambda kind: kind == name)


def has_several_scans(encoded):
    """Whether a JPEG's first scan does not hold all of the image, so that the decoder reads on: [] bool."""
    frame = find_segment(encoded, lambda marker, _: tf.reduce_any(marker == tf.constant(FRAMES, tf.int64)))
    scan = find_segment(encoded, lambda marker, _: marker == SCAN)
    is_sequential = tf.reduce_any(number(encoded, frame + 1, 1) == tf.constant(SEQUENTIAL, tf.int64))
    is_whole = number(encoded, frame + 9, 1) == number(encoded, scan + 4, 1)  # channels of both
    return ~((frame >= 0) & (scan >= 0) & is_sequential & is_whole)
