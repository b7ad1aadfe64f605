"""Image decoding in the serving graph: untrusted bytes become RGB pixels, or a reason why they are refused.

No file may fail the request or exhaust the machine. The format is recognized by the first bytes, as TensorFlow's
decoders recognize it; the size is read from the header before anything is decoded, because a 48 KB PNG can be 20,000
pixels wide and high; and `try_or_default` catches the decoders' errors. `data.image_io` reads the same files in Python
and gives equal pixels.

Refused without decoding: more pixels than the limit; a side longer than a JPEG can have; a JPEG with more scans than
any encoder writes, since each scan costs a pass over all pixels; a PNG with many compressed texts, since libpng
inflates each to up to 8 MB; a BMP that TensorFlow would misread; any format other than JPEG, PNG and BMP.
"""

import tensorflow as tf

from htc_tf.data.image_checks import MAX_SCANS
from htc_tf.data.image_io import MAX_SIDE
from htc_tf.data.preprocessing import JPEG, decode_rgb
from htc_tf.serving.segments import has_several_scans, read_bytes, read_number

PNG, BMP = b"\x89PNG\r\n\x1a\n", b"BM"
IHDR_END = 24  # PNG: 8 bytes signature, 8 bytes length and name of the first chunk, 8 bytes width and height
MAX_TEXTS = 4  # compressed chunks of a PNG
TEXT_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
FLAG = "htc_tf.export --max_pixels"
EMPTY = "empty: no bytes"
UNKNOWN = "not a JPEG, PNG or BMP file"
COSTLY = "refused: more scans or compressed texts than an image has"
DAMAGED = "damaged: it cannot be decoded"
UNREAD_BMP = "refused: a BMP that is compressed, or not of 8, 24 or 32 bits"
# BMP: byte offsets of the fields, the shortest header, and the masks that 32-bit pixels must have.
BMP_FILE_HEADER, BMP_HEADER, BMP_BITS, BMP_COMPRESSION, BMP_MASKS, BMP_SHORTEST = 14, 40, 28, 30, 54, 54
BGRX = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"


def decode(encoded, max_pixels):
    """Decodes one image file.

    Args:
        encoded: [] string, the file's bytes.
        max_pixels: int; a file whose header announces more pixels is refused.

    Returns:
        image: [h, w, 3] uint8 RGB; [0, 0, 3] if the file is refused.
        status: [] string, empty, or the reason for the refusal.
    """
    nothing = tf.zeros([0, 0, 3], tf.uint8)

    def reason_to_refuse(size):
        """Returns the reason to refuse an image of `size` [2] int64, [] string; empty if it is accepted."""
        sides = (size[0], size[1])
        reasons = [
            (tf.reduce_min(size) <= 0, lambda: tf.constant(DAMAGED)),
            # A division, because the product of the sides may overflow: a side can be 2^32 - 1.
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

    def decode_known_format():
        reason = reason_to_refuse(header_size(encoded))
        image = tf.cond(reason == "", lambda: decode_or_default(encoded, nothing), lambda: nothing)
        return image, tf.where((reason == "") & (tf.size(image) == 0), DAMAGED, reason)

    reason = tf.where(tf.strings.length(encoded) > 0, UNKNOWN, EMPTY)
    is_known = tf.reduce_any([starts_with(encoded, magic) for magic in (JPEG, PNG, BMP)])
    image, status = tf.cond(is_known, decode_known_format, lambda: (nothing, reason))
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(status, [])


def try_or_default(function, argument, default):
    """Returns function(argument), or `default` if an operation of the function fails.

    Only tf.data continues after a failed operation: https://www.tensorflow.org/api_docs/python/tf/data/Dataset
    (`ignore_errors`). It is core TensorFlow, and so is `get_single_element`, which was made for serving.

    Args:
        function: maps a tensor to a structure of tensors; traced once. Keep it small: it is instantiated again in each
            call, which takes a millisecond for a dozen operations.
        argument: a tensor.
        default: a structure of the same dtypes and ranks.
    """
    result = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    return result.concatenate(tf.data.Dataset.from_tensors(default)).take(1).get_single_element()


def decode_or_default(encoded, default):
    """Returns a JPEG, PNG or plain BMP as [h, w, 3] uint8, or `default` if it is damaged."""
    image = tf.cond(
        starts_with(encoded, BMP),
        lambda: decode_bmp(encoded, default),
        lambda: try_or_default(decode_rgb, encoded, default),
    )
    return tf.ensure_shape(image, [None, None, 3])


def decode_bmp(encoded, default):
    """Returns a BMP that `is_plain_bmp` as [h, w, 3] uint8, or `default` if it is damaged."""

    decoded = try_or_default(tf.io.decode_bmp, encoded, default)  # [h, w, c], c = 1, 3 or 4 as in the file

    def look_up_palette():
        start = BMP_FILE_HEADER + read_number(encoded, BMP_FILE_HEADER, 4, "<")
        length = tf.clip_by_value(read_number(encoded, 10, 4, "<") - start, 0, 4 * 256)
        table = tf.io.decode_raw(read_bytes(encoded, start, length), tf.uint8)
        # Entries are blue, green, red, 0; reversed to RGB. An index beyond the table is black.
        colors = tf.reshape(tf.pad(table, [[0, 4 * 256 - tf.size(table)]]), [256, 4])[:, 2::-1]  # [256, 3]
        return tf.gather(colors, tf.cast(decoded[..., 0], tf.int32))  # [h, w, 3]

    return tf.cond(tf.shape(decoded)[2] == 1, look_up_palette, lambda: decoded[..., :3])


def is_plain_bmp(encoded):
    """True if `decode_bmp` reads the file: uncompressed, with 24 or 32 bits or a palette of 256 colors."""
    bits, compression = read_number(encoded, BMP_BITS, 2, "<"), read_number(encoded, BMP_COMPRESSION, 4, "<")
    plain = (compression == 0) & ((bits == 8) | (bits == 24) | (bits == 32))
    # Compression 3 only declares masks: the pixels are plain if these are the usual ones.
    masked = (compression == 3) & (bits == 32) & (read_bytes(encoded, BMP_MASKS, len(BGRX)) == BGRX)
    return (read_number(encoded, BMP_FILE_HEADER, 4, "<") >= BMP_HEADER) & (plain | masked)


def is_costly(encoded):
    """True if decoding costs more than it does for any encoder's file of that size."""

    def has_many_scans():
        # A first scan of all channels is the only one that is decoded, whatever follows it.
        many = count(encoded, b"\xff\xda", MAX_SCANS + 1) > MAX_SCANS
        return tf.cond(many, lambda: has_several_scans(encoded), lambda: many)

    def has_many_texts():
        return tf.add_n([count(encoded, name, MAX_TEXTS + 1) for name in TEXT_CHUNKS]) > MAX_TEXTS

    cases = [(starts_with(encoded, JPEG), has_many_scans), (starts_with(encoded, PNG), has_many_texts)]
    return tf.case(cases, default=lambda: tf.constant(False))


def header_size(encoded):
    """Returns [2] int64, the height and width in the header of a file of known format; 0 if it is cut off."""

    def jpeg():
        # The decoder itself reads it, so that no arrangement of markers can show the decoder another size.
        shape = try_or_default(tf.io.extract_jpeg_shape, encoded, tf.zeros([3], tf.int32))
        return tf.cast(shape[:2], tf.int64)

    def png():
        # libpng accepts no file whose first chunk is another one.
        whole = (tf.strings.length(encoded) >= IHDR_END) & (read_bytes(encoded, 12, 4) == b"IHDR")
        return tf.cond(whole, lambda: tf.stack([read_number(encoded, 20, 4), read_number(encoded, 16, 4)]), none)

    def bmp():
        # Signed 32-bit numbers: a negative height means that the rows run from top to bottom.
        whole = tf.strings.length(encoded) >= BMP_SHORTEST
        sides = lambda: tf.stack([read_number(encoded, 22, 4, "<"), read_number(encoded, 18, 4, "<")])  # noqa: E731
        return tf.cond(whole, lambda: tf.abs(to_signed(sides())), none)

    def none():
        return tf.zeros([2], tf.int64)

    cases = [(starts_with(encoded, magic), size) for magic, size in ((JPEG, jpeg), (PNG, png), (BMP, bmp))]
    return tf.case(cases, default=none)


def starts_with(encoded, magic):
    return tf.strings.substr(encoded, 0, len(magic)) == magic


def count(encoded, word, limit):
    """Counts the occurrences of `word` up to `limit`: [] int32. The limit bounds the memory, too."""
    return tf.size(tf.strings.split(encoded, word, maxsplit=limit)) - 1


def to_signed(numbers):
    """Reinterprets unsigned 32-bit numbers as signed ones."""
    return tf.where(numbers < 2**31, numbers, numbers - 2**32)
