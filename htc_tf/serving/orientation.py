"""The EXIF orientation of a JPEG or PNG, which cameras write in place of turning the pixels, and the turn itself.

Before: `serving.decode` has decoded the image. After: `serving.preprocess` resizes it. The same rules as in
`data.image_io`, here in the graph: EXIF before the pixels, its first directory; what is damaged counts as 1.
"""

import tensorflow as tf

from htc_tf.serving.segments import cut, find_chunk, find_segment, number

APP1 = 0xE1
TAG = 0x0112
ENTRY = 12  # bytes of an entry of a TIFF directory
EXIF = b"Exif\0\0"
JPEG, PNG = b"\xff\xd8", b"\x89PNG"
STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0")  # the last two are wrong, and Pillow reads them
# Types of an entry's value, by the standard's numbers.
SHORT, LONG = 3, 4


def orientation(encoded):
    """[] string, any file -> [] int32, 1 to 8 as the EXIF standard (CIPA DC-008) counts them; 1 if it says none."""
    block = find_exif(encoded)
    return tf.cond(tf.strings.length(block) > 0, lambda: read_tag(block), lambda: tf.constant(1))


def find_exif(encoded):
    """The TIFF block of a JPEG's EXIF segment or a PNG's eXIf chunk, [] string; empty if there is none."""

    def jpeg():
        at = find_segment(encoded, lambda marker, start: (marker == APP1) & (start == EXIF))
        return tf.where(at >= 0, cut(encoded, at + 10, number(encoded, at + 2, 2) - 8), "")

    def png():
        at = find_chunk(encoded, b"eXIf")
        return tf.where(at >= 0, cut(encoded, at + 8, number(encoded, at, 4)), "")

    starts = [tf.strings.substr(encoded, 0, len(magic)) == magic for magic in (JPEG, PNG)]
    return tf.case([(starts[0], jpeg), (starts[1], png)], default=lambda: tf.constant(""))


def read_tag(block):
    """The orientation that the first directory of a TIFF block names: [] int32."""
    values = tf.cast(tf.io.decode_raw(block, tf.uint8), tf.int64)
    length = tf.size(values)
    values = tf.pad(values, [[0, 16]])
    size = tf.size(values)
    start = tf.strings.substr(block, 0, 4)
    little = tf.strings.substr(block, 0, 2) == b"II"
    is_tiff = tf.reduce_any(start == tf.constant(STARTS))

    def read(position, count):
        digits = tf.gather(values, tf.clip_by_value(position, 0, size - count)[..., None] + tf.range(count))
        digits = tf.where(little, digits, tf.reverse(digits, [-1]))
        return tf.reduce_sum(digits * tf.constant([256**i for i in range(count)], tf.int64), -1)

    directory = tf.cast(tf.minimum(read(tf.constant(4), 4), 2**30), tf.int32)
    # A directory that begins beyond its block is none: what `read` reads at the end is zero.
    directory = tf.where((directory >= 8) & (directory < size) & is_tiff, directory, size)
    count = tf.minimum(tf.cast(read(directory, 2), tf.int32), (length - directory - 2) // ENTRY)
    entries = directory + 2 + ENTRY * tf.range(tf.maximum(count, 0))
    kind, single = read(entries + 2, 2), read(entries + 4, 4) == 1
    known = single & ((kind == SHORT) | (kind == LONG))
    said = tf.where(known, tf.where(kind == SHORT, read(entries + 8, 2), read(entries + 8, 4)), 1)
    # As in a dictionary, a tag that is written again replaces the one before.
    value = tf.concat([[1], tf.boolean_mask(said, read(entries, 2) == TAG)], 0)[-1]
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def turn(image, orientation):
    """An image [h, w, 3], upright by its orientation [] int32."""
    ways = [
        lambda: image,
        lambda: tf.reverse(image, [1]),
        lambda: tf.reverse(image, [0, 1]),
        lambda: tf.reverse(image, [0]),
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0, 1]),
        lambda: tf.reverse(tf.transpose(image, [1, 0, 2]), [0]),
    ]
    return tf.ensure_shape(tf.switch_case(orientation - 1, ways), [None, None, image.shape[-1]])
