"""Decodes one image of a request, or says why not. Nothing that a stranger sends may fail the request or take the
machine.

Before: `serving.module` has the bytes. After: `serving.preprocess` resizes the image. Formats are told apart by their
first bytes, as TensorFlow's decoders do; the size is read from the header before anything is decoded, for a 48 KB PNG
can be 20,000 pixels wide and high; and `serving.attempt` catches what the decoders raise. The pixels are those of
`data.image_io`, which reads the same files in Python.

Refused before decoding: more pixels than the limit; a side longer than a JPEG can have; a JPEG of more scans than any
encoder writes, each of which costs a pass over all pixels; a PNG with many compressed texts, each of which libpng
unpacks to up to 8 MB; a BMP that TensorFlow would misread; what is neither JPEG nor PNG, GIF or BMP.
"""

import tensorflow as tf

from htc_tf.data.decode import JPEG, decode_rgb
from htc_tf.data.image_io import MAX_SCANS, MAX_SIDE
from htc_tf.serving.attempt import attempt
from htc_tf.serving.gif import first_frame
from htc_tf.serving.segments import cut, has_several_scans, number

PNG, GIF, BMP = b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM"
IHDR_END = 24  # of a PNG: its signature, the chunk's length and name, width, height
MOST_TEXTS = 4  # compressed chunks of a PNG
TEXTS = (b"zTXt", b"iTXt", b"iCCP")
FLAG = "htc_tf.export --max_pixels"
EMPTY = "empty: no bytes"
UNKNOWN = "not a JPEG, PNG, GIF or BMP file"
COSTLY = "refused: more scans or compressed texts than an image has"
DAMAGED = "damaged: it cannot be decoded"
UNREAD_BMP = "refused: a BMP that is compressed, or not of 8, 24 or 32 bits"
# Of a BMP: where its fields lie, and how its 32-bit pixels must be laid out.
BMP_FILE_HEADER, BMP_HEADER, BMP_BITS, BMP_COMPRESSION, BMP_MASKS, BMP_SHORTEST = 14, 40, 28, 30, 54, 54
BGRX = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"


def decode(encoded, max_pixels):
    """
    Args:
        encoded: [] string.
        max_pixels: a header that promises more is refused; an int.
    Returns:
        ([h, w, 3] uint8 RGB, or [0, 0, 3]; [] string, empty, or why there is no image).
    """
    nothing = tf.zeros([0, 0, 3], tf.uint8)
    is_gif = starts_with(encoded, GIF)
    encoded, canvas = tf.cond(is_gif, lambda: first_frame(encoded), lambda: (encoded, tf.zeros([4], tf.int64)))

    def check(size):
        """[] string: why an image of that size is refused, or empty."""
        sides = (size[0], size[1])
        reasons = [
            (tf.reduce_min(size) <= 0, lambda: tf.constant(DAMAGED)),
            # Not by multiplying: 2^31 x 2^31 pixels are 2^62, and a side of 2^32 - 1 is possible, too.
            (
                size[0] > max_pixels // tf.maximum(size[1], 1),
                lambda: tf.strings.format(f"{{}} x {{}} pixels, more than {max_pixels} ({FLAG})", sides),
            ),
            (
                tf.reduce_max(size) > MAX_SIDE,
                lambda: tf.strings.format(f"{{}} x {{}} pixels, and a side may have at most {MAX_SIDE}", sides),
            ),
            (starts_with(encoded, BMP) & ~is_plain_bmp(encoded), lambda: tf.constant(UNREAD_BMP)),
            (is_costly(encoded), lambda: tf.constant(COSTLY)),
        ]
        return tf.case(reasons, default=lambda: tf.constant(""))

    def known():
        reason = check(header_size(encoded, canvas))
        image = tf.cond(reason == "", lambda: try_to_decode(encoded, canvas), lambda: nothing)
        return image, tf.where((reason == "") & (tf.size(image) == 0), DAMAGED, reason)

    reason = tf.where(tf.strings.length(encoded) > 0, UNKNOWN, EMPTY)
    image, status = tf.cond(starts_with_any(encoded, JPEG, PNG, GIF, BMP), known, lambda: (nothing, reason))
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(status, [])


def try_to_decode(encoded, canvas):
    """A file of a known format as [h, w, 3] uint8, of a GIF with black around its frame; [0, 0, 3] if it is damaged."""
    nothing = tf.zeros([0, 0, 3], tf.uint8)

    def gif():
        frame = attempt(lambda encoded: tf.io.decode_gif(encoded)[0], encoded, nothing)
        below, beside = tf.unstack(tf.cast(canvas[2:] - canvas[:2], tf.int32) - tf.shape(frame)[:2])
        above, before = tf.unstack(tf.cast(canvas[:2], tf.int32))
        place = [[above, below], [before, beside], [0, 0]]
        return tf.cond(tf.size(frame) > 0, lambda: tf.pad(frame, place), lambda: nothing)

    cases = [(starts_with(encoded, GIF), gif), (starts_with(encoded, BMP), lambda: decode_bmp(encoded, nothing))]
    return tf.ensure_shape(tf.case(cases, default=lambda: attempt(decode_rgb, encoded, nothing)), [None, None, 3])


def decode_bmp(encoded, otherwise):
    """A BMP that `is_plain_bmp` as [h, w, 3] uint8, or `otherwise` where it is damaged."""

    decoded = attempt(tf.io.decode_bmp, encoded, otherwise)  # as many channels as the file has

    def palette():
        start = BMP_FILE_HEADER + number(encoded, BMP_FILE_HEADER, 4, "<")
        length = tf.clip_by_value(number(encoded, 10, 4, "<") - start, 0, 4 * 256)
        table = tf.io.decode_raw(cut(encoded, start, length), tf.uint8)
        # Stored as blue, green, red, 0. An index that the table lacks is black.
        colors = tf.reshape(tf.pad(table, [[0, 4 * 256 - tf.size(table)]]), [256, 4])[:, 2::-1]
        return tf.gather(colors, tf.cast(decoded[..., 0], tf.int32))

    return tf.cond(tf.shape(decoded)[2] == 1, palette, lambda: decoded[..., :3])


def is_plain_bmp(encoded):
    """Whether `decode_bmp` reads it: 24 or 32 bits or a palette of 256 colors, and not compressed."""
    bits, compression = number(encoded, BMP_BITS, 2, "<"), number(encoded, BMP_COMPRESSION, 4, "<")
    plain = (compression == 0) & ((bits == 8) | (bits == 24) | (bits == 32))
    masked = (compression == 3) & (bits == 32) & (cut(encoded, BMP_MASKS, len(BGRX)) == BGRX)
    return (number(encoded, BMP_FILE_HEADER, 4, "<") >= BMP_HEADER) & (plain | masked)


def is_costly(encoded):
    """Whether decoding costs more than any encoder's file of that size."""

    def jpeg():
        # One scan of all channels is the only one that is decoded, whatever follows it.
        many = count(encoded, b"\xff\xda", MAX_SCANS + 1) > MAX_SCANS
        return tf.cond(many, lambda: has_several_scans(encoded), lambda: many)

    def png():
        return tf.add_n([count(encoded, name, MOST_TEXTS + 1) for name in TEXTS]) > MOST_TEXTS

    cases = [(starts_with(encoded, JPEG), jpeg), (starts_with(encoded, PNG), png)]
    return tf.case(cases, default=lambda: tf.constant(False))


def header_size(encoded, canvas):
    """[2] int64, the height and width that the header of a file of known format promises; 0 where it is cut off.
    `canvas` is as `gif.first_frame` has it."""

    def jpeg():
        # By the decoder itself, so that no trick of markers can tell it another size than us.
        shape = attempt(tf.io.extract_jpeg_shape, encoded, tf.zeros([3], tf.int32))
        return tf.cast(shape[:2], tf.int64)

    def png():
        # libpng takes no file whose first chunk is another.
        whole = (tf.strings.length(encoded) >= IHDR_END) & (cut(encoded, 12, 4) == b"IHDR")
        return tf.cond(whole, lambda: tf.stack([number(encoded, 20, 4), number(encoded, 16, 4)]), none)

    def bmp():
        # Four bytes each with a sign: a negative height stands for rows from the top.
        whole = tf.strings.length(encoded) >= BMP_SHORTEST
        sides = lambda: tf.abs(signed(tf.stack([number(encoded, 22, 4, "<"), number(encoded, 18, 4, "<")])))  # noqa: E731
        return tf.cond(whole, sides, none)

    def none():
        return tf.zeros([2], tf.int64)

    cases = [(JPEG, jpeg), (PNG, png), (GIF, lambda: canvas[2:]), (BMP, bmp)]
    return tf.case([(starts_with(encoded, magic), size) for magic, size in cases], default=none)


def starts_with(encoded, magic):
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def starts_with_any(encoded, *magics):
    return tf.reduce_any([starts_with(encoded, magic) for magic in magics])


def count(encoded, word, most):
    """How often bytes occur, but no further than `most`: [] int32. Its memory does not grow with the count."""
    return tf.size(tf.strings.split(encoded, word, maxsplit=most)) - 1


def signed(numbers):
    """Four unsigned bytes' worth as a number with a sign."""
    return tf.where(numbers < 2**31, numbers, numbers - 2**32)
