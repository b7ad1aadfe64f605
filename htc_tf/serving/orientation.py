"""EXIF orientation in the serving graph: cameras store it instead of rotating the pixels of a JPEG or PNG.

The rules are the same as in `data.image_io`: EXIF before the pixels, its first directory; a damaged entry counts as 1.
"""

import tensorflow as tf

from htc_tf.serving.segments import find_chunk, find_segment, read_bytes, read_number

APP1 = 0xE1  # the JPEG segment that holds EXIF
ORIENTATION_TAG = 0x0112
ENTRY = 12  # bytes of an entry of a TIFF directory: tag 2, type 2, count 4, value 4
EXIF = b"Exif\0\0"
JPEG, PNG = b"\xff\xd8", b"\x89PNG"
TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0")  # the last two are wrong, and Pillow reads them
SHORT, LONG = 3, 4  # TIFF types of a value, of 2 and 4 bytes


def read_orientation(encoded):
    """Reads the orientation of an image file.

    Args:
        encoded: [] string, a file of any kind.

    Returns:
        [] int32, 1 to 8 as the EXIF standard (CIPA DC-008) numbers them; 1 if the file has none.
    """
    block = find_exif(encoded)
    return tf.cond(tf.strings.length(block) > 0, lambda: read_tag(block), lambda: tf.constant(1))


def find_exif(encoded):
    """Returns the TIFF block of a JPEG's EXIF segment or a PNG's eXIf chunk, [] string; empty if there is none."""

    def jpeg():
        at = find_segment(encoded, lambda marker, start: (marker == APP1) & (start == EXIF))
        # The content begins after 2 bytes marker, 2 bytes length and the 6 bytes of EXIF; the length counts 8 of them.
        return tf.where(at >= 0, read_bytes(encoded, at + 10, read_number(encoded, at + 2, 2) - 8), "")

    def png():
        at = find_chunk(encoded, b"eXIf")
        # The content begins after 4 bytes length and 4 bytes name.
        return tf.where(at >= 0, read_bytes(encoded, at + 8, read_number(encoded, at, 4)), "")

    starts = [tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG)]
    return tf.case([(starts[0], jpeg), (starts[1], png)], default=lambda: tf.constant(""))


def read_tag(block):
    """Returns the orientation in the first directory of a TIFF block, [] int32."""
    values = tf.cast(tf.io.decode_raw(block, tf.uint8), tf.int64)
    length = tf.size(values)
    values = tf.pad(values, [[0, 16]])  # a read beyond the end gives zeros
    size = tf.size(values)
    header = tf.strings.substr(block, 0, 4)
    little_endian = tf.strings.substr(block, 0, 2) == b"II"
    is_tiff = tf.reduce_any(header == tf.constant(TIFF_HEADERS))

    def read(positions, count):
        """Reads numbers of `count` bytes at positions [...]: [...] int64."""
        digits = tf.gather(values, tf.clip_by_value(positions, 0, size - count)[..., None] + tf.range(count))
        digits = tf.where(little_endian, digits, tf.reverse(digits, [-1]))  # [..., count], least significant first
        return tf.reduce_sum(digits * tf.constant([256**i for i in range(count)], tf.int64), -1)

    directory = tf.cast(tf.minimum(read(tf.constant(4), 4), 2**30), tf.int32)
    # A directory beyond the block does not count: `read` gives zero entries at the end.
    directory = tf.where((directory >= 8) & (directory < size) & is_tiff, directory, size)
    count = tf.minimum(tf.cast(read(directory, 2), tf.int32), (length - directory - 2) // ENTRY)
    entries = directory + 2 + ENTRY * tf.range(tf.maximum(count, 0))  # [count], each entry's position
    kind, single = read(entries + 2, 2), read(entries + 4, 4) == 1
    known = single & ((kind == SHORT) | (kind == LONG))
    stored = tf.where(known, tf.where(kind == SHORT, read(entries + 8, 2), read(entries + 8, 4)), 1)
    # Of several entries with this tag the last one counts, as in a dictionary.
    value = tf.concat([[1], tf.boolean_mask(stored, read(entries, 2) == ORIENTATION_TAG)], 0)[-1]
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def apply_orientation(image, orientation):
    """Rotates and mirrors an image [h, w, C] so that it is upright, by its orientation [] int32."""
    transforms = [  # orientations 1 to 8, in order
        lambda: image,
        lambda: tf.reverse(image, [1]),
        lambda: tf.reverse(image, [0, 1]),
        lambda: tf.reverse(image, [0]),
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0, 1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0]),
    ]
    return tf.ensure_shape(tf.switch_case(orientation - 1, transforms), [None, None, image.shape[-1]])
