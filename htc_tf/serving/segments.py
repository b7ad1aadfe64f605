"""JPEG segments and PNG chunks before the pixels, found in a TensorFlow graph.

`serving.decode` counts a JPEG's scans with it, `serving.orientation` reads EXIF.
"""

import numpy as np
import tensorflow as tf

MAX_SEGMENTS = 64  # that are looked at before the pixels
FILL, SCAN = 0xFF, 0xDA  # JPEG markers
# Start-of-frame markers; 0xC4, 0xC8 and 0xCC between them have other meanings.
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
SEQUENTIAL = (0xC0, 0xC1)
NOT_FOUND = np.int64(-1)
LAST_CHUNKS = (b"IDAT", b"IEND")


def read_number(encoded, position, length, order=">"):
    """Reads an unsigned number of `length` bytes: [] int64. Bytes beyond the end of the file count as 0.

    Args:
        encoded: [] string, the file.
        position: [] integer, the first byte.
        length: int, bytes.
        order: ">" if the most significant byte is first, "<" if it is last.
    """
    digits = tf.cast(tf.io.decode_raw(read_bytes(encoded, position, length), tf.uint8), tf.int64)
    digits = tf.pad(digits, [[0, length - tf.size(digits)]])  # [length]
    powers = [256**i for i in range(length)]
    return tf.reduce_sum(digits * tf.constant(powers[::-1] if order == ">" else powers, tf.int64))


def read_bytes(encoded, position, length):
    """Returns the bytes from `position` on, [] string: `length` of them, or as many as the file has.

    Args:
        encoded: [] string, the file.
        position, length: integers or [] tensors of the same integer type.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)
    limits = tf.clip_by_value(tf.cast(tf.stack([position, length]), tf.int64), 0, size)
    return tf.strings.substr(encoded, limits[0], limits[1])


def find(encoded, start, read, wanted):
    """Finds the first wanted segment.

    Args:
        encoded: [] string, the file.
        start: int, the position of the first segment.
        read: maps a position to (kind of the segment there, position of the next segment, True if it is the last).
        wanted: maps a kind to [] bool.

    Returns:
        [] int64, the segment's position; -1 if none of the first MAX_SEGMENTS is wanted.
    """
    size = tf.cast(tf.strings.length(encoded), tf.int64)

    def unfinished(position, found, segments):
        return (found < 0) & (position >= 0) & (position < size) & (segments < MAX_SEGMENTS)

    def step(position, _, segments):
        kind, following, is_last = read(position)
        found = tf.where(wanted(kind), position, NOT_FOUND)
        return tf.where(is_last, size, following), found, segments + 1

    state = (tf.constant(start, tf.int64), tf.constant(NOT_FOUND), tf.constant(0))
    return tf.while_loop(unfinished, step, state, parallel_iterations=1)[1]


def find_segment(encoded, wanted):
    """Finds a JPEG's first segment with wanted(marker, first six bytes of its content): a position as in `find`."""

    def read(position):
        # A segment is 0xFF, its marker, two bytes length (which include themselves) and its content.
        prefix, marker = read_number(encoded, position, 1), read_number(encoded, position + 1, 1)
        # Any number of fill bytes 0xFF may precede a marker.
        is_fill = marker == FILL
        following = position + tf.where(is_fill, tf.constant(1, tf.int64), 2 + read_number(encoded, position + 2, 2))
        is_segment = prefix == 0xFF
        kind = tf.where(is_segment, marker, NOT_FOUND), read_bytes(encoded, position + 4, 6)
        return kind, following, ~is_segment | (marker == SCAN)

    return find(encoded, 2, read, lambda kind: wanted(*kind))  # 2 bytes: the start-of-image marker


def find_chunk(encoded, name):
    """Finds a PNG's first chunk of that name before its pixels: a position as in `find`."""

    def read(position):
        # A chunk is four bytes length, its name, its content and four bytes checksum.
        following = position + 12 + read_number(encoded, position, 4)
        kind = read_bytes(encoded, position + 4, 4)
        return kind, following, tf.reduce_any([kind == last for last in LAST_CHUNKS])

    return find(encoded, 8, read, lambda kind: kind == name)  # 8 bytes: the signature


def has_several_scans(encoded):
    """True if a JPEG's first scan holds only a part of the image, so that the decoder reads more scans: [] bool."""
    frame = find_segment(encoded, lambda marker, _: tf.reduce_any(marker == tf.constant(FRAMES, tf.int64)))
    scan = find_segment(encoded, lambda marker, _: marker == SCAN)
    is_sequential = tf.reduce_any(read_number(encoded, frame + 1, 1) == tf.constant(SEQUENTIAL, tf.int64))
    # The number of channels in the frame and in the scan.
    is_whole = read_number(encoded, frame + 9, 1) == read_number(encoded, scan + 4, 1)
    return ~((frame >= 0) & (scan >= 0) & is_sequential & is_whole)
