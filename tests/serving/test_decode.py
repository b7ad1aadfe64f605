"""Decoding of untrusted files: every file gives its image or a reason for the refusal, and none raises an error."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from htc_tf.data import image_io
from htc_tf.serving.decode import BMP, COSTLY, DAMAGED, EMPTY, UNKNOWN, UNREAD_BMP, decode
from tests import forks

ROOT = Path(__file__).parents[2]
LIMIT = 20_000
ABOVE = f"more than {LIMIT} (htc_tf.export --max_pixels)"


@pytest.fixture(scope="module")
def decoder():
    """Maps bytes to (image, status), by one graph for all files."""
    traced = tf.function(
        lambda encoded: decode(encoded, LIMIT), input_signature=[tf.TensorSpec([], tf.string)], autograph=False
    )

    def run(content):
        image, status = traced(tf.constant(content))
        return image.numpy(), status.numpy().decode()

    return run


@pytest.fixture(scope="module")
def pixels():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    image[:30, :40] = [200, 30, 30]
    return image


def save(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, body=b"", before=b""):
    """Returns a PNG of one bit per pixel with an arbitrary body."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + png_chunk(b"IDAT", zlib.compress(body)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("BMP", "RGB", {}),
        ("BMP", "RGBA", {}),
        ("BMP", "L", {}),
        ("BMP", "P", {}),
    ],
)
def test_formats(decoder, pixels, form, mode, options):
    source = Image.fromarray(pixels)
    if mode == "I;16":
        source = Image.fromarray(pixels[..., 0] * np.uint16(257))
    content = save(source.convert(mode) if mode != "I;16" else source, form, **options)
    image, status = decoder(content)
    assert status == ""
    # Bit for bit as preparation and prediction decode; CMYK is rounded in another order.
    difference = np.abs(image.astype(int) - image_io.decode(content))
    assert difference.max() <= (mode == "CMYK")
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    if form != "JPEG" and mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(image, pixels)


def test_other_formats_are_refused(decoder, pixels):
    source = Image.fromarray(pixels)
    assert decoder(b"")[1] == EMPTY
    for content in (
        b"not an image at all",
        b"\xff\xd8",
        save(source, "GIF"),
        save(source, "WEBP"),
        save(source, "TIFF"),
    ):
        assert decoder(content)[1] == UNKNOWN


def test_damaged_files_are_refused(decoder, pixels):
    source = Image.fromarray(pixels)
    for form in ("JPEG", "PNG", "BMP"):
        content = save(source, form)
        for length in (9, 20, 25, 300, len(content) // 2):
            image, status = decoder(content[:length])
            assert status == DAMAGED and image.shape == (0, 0, 3), (form, length)
    assert decoder(save(source, "JPEG")[:-2])[1] == DAMAGED
    assert decoder(png(0, 7))[1] == DAMAGED
    assert decoder(b"\x89PNG\r\n\x1a\n" + bytes(100))[1] == DAMAGED


def test_more_pixels_than_the_limit(decoder):
    """The size is read from the header alone."""
    refused = f"200 x 300 pixels, {ABOVE}"
    blank = Image.new("L", (300, 200))
    for form in ("JPEG", "PNG", "BMP"):
        assert decoder(save(blank, form))[1] == refused
    # These headers do not tell the truth: nothing else is read.
    assert decoder(png(2**31 - 1, 2**31 - 1))[1] == f"2147483647 x 2147483647 pixels, {ABOVE}"
    jpeg = bytearray(save(Image.new("RGB", (8, 8)), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65500, 65500)
    assert decoder(bytes(jpeg))[1] == f"65500 x 65500 pixels, {ABOVE}"
    # A negative height means that the rows run from top to bottom.
    assert decoder(BMP + bytes(16) + struct.pack("<ii", 300, -200) + bytes(28))[1] == refused


def test_costly_files_are_refused(decoder, pixels):
    scans = save(Image.fromarray(pixels), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    assert decoder(scans[:-2] + 100 * scans[last:-2] + scans[-2:])[1] == COSTLY
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1000)))
    row = b"\0" * 2
    assert decoder(png(8, 8, 8 * row, 4 * text))[1] == ""
    assert decoder(png(8, 8, 8 * row, 5 * text))[1] == COSTLY


def test_bmps_that_tensorflow_would_misread_are_refused(decoder, pixels):
    source = Image.fromarray(pixels)
    assert decoder(save(source.convert("1"), "BMP"))[1] == UNREAD_BMP
    for place, value in ((28, 16), (30, 1), (30, 2), (14, 12)):  # bits, compression, an older header
        content = bytearray(save(source, "BMP"))
        content[place] = value
        assert decoder(bytes(content))[1] == UNREAD_BMP, place


def test_bytes_after_a_single_scan_do_not_count(decoder, pixels):
    """A phone appends a video to its JPEG, which may contain any bytes."""
    content = save(Image.fromarray(pixels), "JPEG")
    image, status = decoder(content + b"\xff\xda" * 100)
    assert status == ""
    np.testing.assert_array_equal(image, image_io.decode(content))
    # With one channel in the first scan the decoder reads further scans.
    scan = content.index(b"\xff\xda")
    several = content[:scan] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + content[scan + 14 :]
    assert decoder(several + b"\xff\xda" * 100)[1] == COSTLY


PEAK = """
import sys
import tensorflow as tf
from htc_tf.serving.decode import decode
from htc_tf.serving.orientation import apply_orientation, read_orientation
def read(encoded):
    image, status = decode(encoded, 50_000_000)
    return apply_orientation(image, read_orientation(encoded)), status
read = tf.function(read, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def peak():
    return [int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
small, *others = [open(name, "rb").read() for name in sys.argv[1:]]
read(small)
for content in others:
    content, before = tf.constant(content), peak()
    status = read(content)[1].numpy().decode()
    print(peak() - before, status or "well", sep="|")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_what_is_not_the_image(tmp_path):
    """Files of 4 to 8 MiB that are refused, or whose image is small; a header of 50 million pixels in one row."""
    jpeg = save(Image.new("RGB", (64, 64), (9, 90, 200)), "JPEG", progressive=True)
    contents = {
        "scans": (jpeg[:-2] + b"\xff\xda" * 2**21 + jpeg[-2:], COSTLY),
        "texts": (png(8, 8, bytes(16), png_chunk(b"zTXt", b"a\0\0") * 300_000), COSTLY),
        "comments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 2**20 + jpeg[2:], "well"),
        "side": (png(50_000_000, 1, bytes(6_250_001)), "1 x 50000000 pixels, and a side may have at most 65535"),
    }
    (tmp_path / "small").write_bytes(jpeg)
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    done = forks.run("-c", PEAK, *(tmp_path / name for name in ("small", *contents)))
    assert done.returncode == 0, done.stderr[-3000:]
    for line, (name, (_, expected)) in zip(done.stdout.splitlines(), contents.items(), strict=True):
        grown, _, status = line.partition("|")
        assert status == expected and int(grown) < 40, (name, line)
