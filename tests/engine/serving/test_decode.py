"""What strangers send: each kind of file gives its picture or a reason, and none an error."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from htc_tf.data import image_io
from htc_tf.engine.serving.decode import BMP, COSTLY, DAMAGED, EMPTY, UNKNOWN, decode
from htc_tf.engine.serving.orientation import orientation, turn

LIMIT = 20_000
ABOVE = f"more than {LIMIT} (htc_tf.export --max_pixels)"


@pytest.fixture(scope="module")
def decoder():
    """bytes -> (picture, status), by one graph for all of them."""
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


def save(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, body=b"", before=b""):
    """A PNG of one bit a pixel, whatever its body holds."""
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
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("BMP", "RGBA", {}),
        ("BMP", "L", {}),
        ("BMP", "P", {}),
    ],
)
def test_pictures(decoder, pixels, form, mode, options):
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0] * np.uint16(257))
    content = save(picture.convert(mode) if mode != "I;16" else picture, form, **options)
    image, status = decoder(content)
    assert status == ""
    # As preparation and prediction decode, to the last bit; CMYK is rounded in another order.
    difference = np.abs(image.astype(int) - image_io.decode(content))
    assert difference.max() <= (mode == "CMYK")
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    if form != "JPEG" and mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(image, pixels)


def test_of_an_animation_the_first_frame_alone_is_decoded(decoder, pixels):
    picture = Image.fromarray(pixels)
    others = [picture.rotate(90), picture.rotate(180)]
    content = save(picture, "GIF", save_all=True, append_images=others, comment=b"x" * 600)
    image, status = decoder(content)
    assert status == ""
    np.testing.assert_array_equal(image, tf.io.decode_image(content, 3, expand_animations=False))
    # What follows is not even read.
    assert decoder(content[:-3000])[1] == "" and len(content) > 9000
    assert decoder(content[:3000])[1] == DAMAGED


def test_what_is_no_picture(decoder, pixels):
    picture = Image.fromarray(pixels)
    assert decoder(b"")[1] == EMPTY
    for content in (b"not an image at all", b"\xff\xd8", save(picture, "WEBP"), save(picture, "TIFF")):
        assert decoder(content)[1] == UNKNOWN


def test_damage(decoder, pixels):
    picture = Image.fromarray(pixels)
    for form in ("JPEG", "PNG", "GIF", "BMP"):
        content = save(picture, form)
        for length in (9, 20, 25, 300, len(content) // 2):
            image, status = decoder(content[:length])
            assert status == DAMAGED and image.shape == (0, 0, 3), (form, length)
    assert decoder(save(picture, "JPEG")[:-2])[1] == DAMAGED
    assert decoder(png(0, 7))[1] == DAMAGED
    assert decoder(b"\x89PNG\r\n\x1a\n" + bytes(100))[1] == DAMAGED


def test_more_pixels_than_the_limit(decoder):
    refused = f"200 x 300 pixels, {ABOVE}"
    blank = Image.new("L", (300, 200))
    for form in ("JPEG", "PNG", "GIF", "BMP"):
        assert decoder(save(blank, form))[1] == refused
    # Headers that lie: nothing is read but them.
    assert decoder(png(2**31 - 1, 2**31 - 1))[1] == f"2147483647 x 2147483647 pixels, {ABOVE}"
    jpeg = bytearray(save(Image.new("RGB", (8, 8)), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 65500, 65500)
    assert decoder(bytes(jpeg))[1] == f"65500 x 65500 pixels, {ABOVE}"
    # A GIF's frame may be larger than its screen.
    gif = bytearray(save(blank, "GIF"))
    gif[6:10] = struct.pack("<HH", 3, 2)
    assert decoder(bytes(gif))[1] == refused
    # Rows from the top have a negative height.
    assert decoder(BMP + bytes(16) + struct.pack("<ii", 300, -200) + bytes(28))[1] == refused


def test_what_only_costs(decoder, pixels):
    scans = save(Image.fromarray(pixels), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    assert decoder(scans[:-2] + 100 * scans[last:-2] + scans[-2:])[1] == COSTLY
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1000)))
    row = b"\0" * 2
    assert decoder(png(8, 8, 8 * row, 4 * text))[1] == ""
    assert decoder(png(8, 8, 8 * row, 5 * text))[1] == COSTLY


@pytest.mark.parametrize("order", ["II", "MM"])
def test_orientation(pixels, order):
    read = tf.function(orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    picture = Image.fromarray(pixels)
    for value in range(1, 9):
        exif = Image.Exif()
        exif.endian = "<" if order == "II" else ">"
        exif[ExifTags.Base.Make] = "a camera"
        exif[ExifTags.Base.Orientation] = value
        content = save(picture, "JPEG", exif=exif, comment=b"before")
        assert order.encode() in content[:40]
        assert read(content) == value
        picture.getexif()[ExifTags.Base.Orientation] = value
        upright = np.asarray(ImageOps.exif_transpose(picture))
        np.testing.assert_array_equal(turn(tf.constant(pixels), tf.constant(value)), upright)
        # However it is cut, there is an answer.
        for length in range(0, content.index(b"\xff\xdb") + 3, 20 if value == 6 else 200):
            assert read(content[:length]) in (1, value)
    assert read(save(picture, "PNG")) == 1 and read(b"") == 1 and read(save(Image.new("L", (8, 8)), "JPEG")) == 1
