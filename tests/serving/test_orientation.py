"""EXIF orientations in the graph: read as `data.image_io` reads them, and applied as Pillow applies them."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from htc_tf.data import image_io
from htc_tf.serving import orientation


@pytest.fixture(scope="module")
def read_orientation():
    return tf.function(orientation.read_orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def save(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def exif_block(value, kind=3, number=1, order="<", before=(), after=(), start=8):
    """Returns a TIFF block whose first directory has the orientation as one value of a type, among other entries."""
    sizes = {1: "B", 3: "H", 4: "I"}
    content = struct.pack(order + sizes.get(kind, "H"), value).ljust(4, b"\0")
    entries = [*before, struct.pack(order + "HHI", 0x0112, kind, number) + content, *after]
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return header.ljust(start, b"\0") + directory


def with_exif(content, block):
    """Returns a JPEG or PNG with an EXIF block as its first segment or chunk."""
    if content.startswith(b"\xff\xd8"):
        body = b"Exif\0\0" + block
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]
    return content[:33] + png_chunk(b"eXIf", block) + content[33:]


def entry(tag, value, order="<"):
    return struct.pack(order + "HHIHH", tag, 3, 1, value, 0)


ODD_EXIF = [
    *(exif_block(value, kind, order=order) for value in range(10) for kind in (1, 3, 4) for order in "<>"),
    exif_block(6, kind=2),
    exif_block(6, kind=5),
    exif_block(6, number=0),
    exif_block(6, start=64),
    exif_block(6, before=[entry(0x0100, 3), entry(0x010F, 8)], after=[entry(0x0131, 3)]),
    exif_block(6, order=">", before=[entry(0x0100, 3, ">")]),
    exif_block(6, after=[entry(0x0112, 8)]),
    exif_block(6)[:-5],  # the directory ends early
    exif_block(6)[:12],
    exif_block(6)[:8],
    exif_block(6)[:3],
    b"",
    b"II*\0\xff\xff\xff\xff",
    b"II*\0\0\0\0\0",
    b"XX" + exif_block(6)[2:],
    b"II\0*" + exif_block(6)[4:],
    b"II*\0\x08\0\0\0\xff\xff" + exif_block(6)[10:],  # a larger number of entries than it has
]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_reads_orientations_as_image_io_does(read_orientation, form):
    plain = save(Image.new("RGB", (8, 6)), form)
    found = set()
    for number, block in enumerate(ODD_EXIF):
        content = with_exif(plain, block)
        expected = image_io.orientation(image_io.open_image(content))
        assert read_orientation(content) == expected, (number, block)
        found.add(expected)
    assert found == set(range(1, 9))


def test_a_segment_without_its_prefix_does_not_count(read_orientation):
    content = bytearray(with_exif(save(Image.new("RGB", (8, 6)), "JPEG"), exif_block(6)))
    assert read_orientation(bytes(content)) == 6
    content[2] = 0x48  # of FF E1
    assert read_orientation(bytes(content)) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_exif_never_fails_the_graph(read_orientation, form):
    plain, random = save(Image.new("RGB", (8, 6)), form), np.random.default_rng(0)
    block = exif_block(6, before=[entry(0x0100, 3)], after=[entry(0x0131, 3)])
    for _ in range(150):
        damaged = bytearray(with_exif(plain, block))
        for place in random.integers(2, 2 + 40 + len(block), 2):
            damaged[place] = random.integers(256)
        assert 1 <= read_orientation(bytes(damaged)) <= 8
        assert 1 <= read_orientation(bytes(damaged[: random.integers(len(damaged))])) <= 8


@pytest.mark.parametrize("order", ["II", "MM"])
def test_images_of_every_orientation(read_orientation, order):
    """JPEGs and PNGs that Pillow wrote; `apply_orientation` gives the pixels of Pillow's exif_transpose."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    image = Image.fromarray(pixels)
    for value in range(1, 9):
        exif = Image.Exif()
        exif.endian = "<" if order == "II" else ">"
        exif[ExifTags.Base.Make] = "a camera"
        exif[ExifTags.Base.Orientation] = value
        content = save(image, "JPEG", exif=exif, comment=b"before")
        assert order.encode() in content[:40]
        assert read_orientation(content) == value
        assert read_orientation(save(image, "PNG", exif=exif)) == value
        image.getexif()[ExifTags.Base.Orientation] = value
        upright = np.asarray(ImageOps.exif_transpose(image))
        turned = orientation.apply_orientation(tf.constant(pixels), tf.constant(value))
        np.testing.assert_array_equal(turned, upright)
        # A file that is cut off anywhere gives an orientation.
        for length in range(0, content.index(b"\xff\xdb") + 3, 20 if value == 6 else 200):
            assert read_orientation(content[:length]) in (1, value)
    for content in (save(image, "PNG"), b"", save(Image.new("L", (8, 8)), "JPEG")):
        assert read_orientation(content) == 1
