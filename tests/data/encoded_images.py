"""Encoded images for tests: smooth pixels, and PNGs of kinds that Pillow does not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def drawn(height=97, width=131):
    """Returns [height, width, 3] uint8, smooth random colors."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 255, (20, 30, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def save(pixels, form, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(values, bits, color, before=b""):
    """Returns a PNG of any bit depth and color type; values [h, w] or [h, w, channels]."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]) for row in values
        ]
        rows = [row.tobytes() for row in rows]
    return png_file(width, height, bits, color, zlib.compress(b"".join(b"\0" + row for row in rows)), before)


def png_file(width, height, bits, color, compressed, before=b""):
    """Returns a PNG of compressed rows, each after a byte for its filter, and of further chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = png_chunk(b"IDAT", compressed)
    return b"\x89PNG\r\n\x1a\n" + header + before + body + png_chunk(b"IEND", b"")


def blank_png(width, height):
    """Returns a black PNG of one bit per pixel, which is small: 650 KB for 1,200 million pixels."""
    return png_file(width, height, 1, 0, zlib.compress(bytes(height * (1 + -(-width // 8))), 1))
