"""The first frame of a GIF, cut out of the file before anything is decoded.

Before and after: `serving.decode`. The decoder unpacks all frames of an animation to give the first, and a frame may be
larger than the header's screen: a small file could fill any memory. So the file's blocks are walked to the end of the
first frame, and what follows is left out (https://www.w3.org/Graphics/GIF/spec-gif89a.txt).

A frame is a chain of up to thousands of pieces, each of which says where the next begins. They are not walked one by
one: every byte learns where a chain that began there would end, by asking the byte that it points to, and that again.
"""

import tensorflow as tf

HEADER = 13  # signature, screen, flags
DESCRIPTOR = 10
EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, b"\x3b"
MOST_BYTES = 2**19  # of the file, that are looked at
MOST_BLOCKS = 64  # before the first frame
NONE = b"GIF8"  # what no decoder takes


def first_frame(encoded):
    """
    Args:
        encoded: [] string, a GIF.
    Returns:
        [] string: a GIF of the first frame alone, NONE where that is not whole in the first MOST_BYTES;
        [4] int64: the frame's top and left in its canvas, the canvas' height and width. The canvas is the screen, or
        larger where the frame reaches beyond it. All 0 with NONE.
    """
    encoded = tf.strings.substr(encoded, 0, MOST_BYTES)
    values = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    size = tf.size(values)
    ends = chain_ends(values)

    def at(position):
        return values[tf.minimum(position, size - 1)]

    def two_bytes(position):
        return tf.cast(at(position) + 256 * at(position + 1), tf.int64)

    def table(flags):
        """Bytes of the color table."""
        return tf.where(flags >= 0x80, 3 * tf.bitwise.left_shift(2, flags & 7), 0)

    def skip(chain):
        """Where what follows a chain begins."""
        return ends[tf.minimum(chain, size)] + 1

    def unfinished(position, blocks):
        return (position < size) & (at(position) == EXTENSION) & (blocks < MOST_BLOCKS)

    start = HEADER + table(at(10))
    before = tf.while_loop(unfinished, lambda position, blocks: (skip(position + 2), blocks + 1), (start, 0))
    frame = before[0]
    end = skip(frame + DESCRIPTOR + table(at(frame + 9)) + 1)

    def cut():
        left, top, width, height = (two_bytes(frame + offset) for offset in (1, 3, 5, 7))
        canvas = tf.maximum([two_bytes(8), two_bytes(6)], [top + height, left + width])
        # TensorFlow takes the largest frame for the canvas and clips what its offset moves out of it: without offset.
        parts = [
            tf.strings.substr(encoded, 0, 6),
            tf.strings.substr(encoded, frame + 5, 4),
            tf.strings.substr(encoded, HEADER - 3, frame + 1 - (HEADER - 3)),
            tf.constant(bytes(4)),
            tf.strings.substr(encoded, frame + 5, end - (frame + 5)),
            tf.constant(TRAILER),
        ]
        return tf.strings.join(parts), tf.stack([top, left, canvas[0], canvas[1]])

    whole = (frame < size) & (at(frame) == IMAGE) & (end <= size)
    return tf.cond(whole, cut, lambda: (tf.constant(NONE), tf.zeros([4], tf.int64)))


def chain_ends(values):
    """Where the chain of pieces ends that begins at each byte, were it one's length: [n] int32 -> [n + 1] int32.

    A piece is its length and so many bytes; one of no bytes ends the chain. n stands for the end of the file.
    """
    size = tf.size(values)
    places = tf.range(size)
    leads_to = tf.concat([tf.where(values > 0, tf.minimum(places + 1 + values, size), places), [size]], 0)

    def follow(leads_to, _):
        further = tf.gather(leads_to, leads_to)
        return further, tf.reduce_any(further != leads_to)

    return tf.while_loop(lambda _, changed: changed, follow, (leads_to, tf.constant(True)))[0]
