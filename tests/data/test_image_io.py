"""Decoding of image files: every format, mode and orientation, with the same pixels from Pillow and TensorFlow."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from htc_tf.data import image_io
from htc_tf.data.image_io import ImageError
from htc_tf.data.preprocessing import decode_rgb
from tests.data.encoded_images import drawn, png, png_chunk, save

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco_sample"


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("quality", [5, 50, 95, 100])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_the_same_by_tensorflow_and_pillow(sampling, quality, progressive):
    content = save(drawn(), "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
    np.testing.assert_array_equal(decode_rgb(content), image_io.decode(content))


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (9, 8)])
def test_small_jpegs_and_gray_ones_too(size):
    for mode in ("RGB", "L"):
        content = save(drawn(*size), "JPEG", mode)
        np.testing.assert_array_equal(decode_rgb(content), image_io.decode(content))


def test_a_cmyk_jpeg_differs_by_no_more_than_its_rounding():
    content = save(drawn(), "JPEG", "CMYK", quality=5)
    assert np.abs(decode_rgb(content).numpy().astype(int) - image_io.decode(content)).max() <= 1


def test_jpegs_of_coco_are_the_same_by_tensorflow_and_pillow():
    files = sorted(COCO.glob("**/*.jpg"))[::20]
    if not files:
        pytest.skip("the COCO sample is not here")
    for path in files:
        np.testing.assert_array_equal(decode_rgb(path.read_bytes()), image_io.decode(path.read_bytes()), str(path))


@pytest.mark.parametrize(
    ("bits", "color", "channels"),
    [
        (1, 0, 0),
        (2, 0, 0),
        (4, 0, 0),
        (8, 0, 0),
        (16, 0, 0),
        (8, 2, 3),
        (16, 2, 3),
        (8, 4, 2),
        (16, 4, 2),
        (8, 6, 4),
        (16, 6, 4),
        (1, 3, 0),
        (4, 3, 0),
        (8, 3, 0),
    ],
)
def test_every_kind_of_png_is_the_same_by_tensorflow_and_pillow(bits, color, channels):
    """Gray, RGB, palette and alpha at all depths: alpha is dropped, 16 bits keep their high byte."""
    random = np.random.default_rng(bits)
    values = random.integers(0, 2**bits, (11, 13, channels) if channels else (11, 13))
    palette = png_chunk(b"PLTE", random.integers(0, 256, 3 * 2**bits, np.uint8).tobytes()) if color == 3 else b""
    content = png(values, bits, color, palette)
    pixels = image_io.decode(content)
    np.testing.assert_array_equal(decode_rgb(content), pixels)
    if bits >= 8 and color != 3:
        colors = values[..., None] if channels == 0 else values[..., : channels - (color >= 4)]
        np.testing.assert_array_equal(pixels, np.broadcast_to(colors >> (bits - 8), pixels.shape))


@pytest.mark.filterwarnings("error")
def test_transparency_of_a_palette_is_dropped_without_a_warning():
    random = np.random.default_rng(0)
    colors, values = random.integers(0, 256, (256, 3), np.uint8), random.integers(0, 256, (11, 13))
    before = png_chunk(b"PLTE", colors.tobytes()) + png_chunk(b"tRNS", bytes(random.integers(0, 256, 256, np.uint8)))
    content = png(values, 8, 3, before)
    np.testing.assert_array_equal(image_io.decode(content), colors[values])
    np.testing.assert_array_equal(decode_rgb(content), colors[values])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_high_byte(form):
    values = np.random.default_rng(0).integers(0, 2**16, (11, 13)).astype(np.uint16)
    pixels = image_io.decode(save(values, form))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("order", "bits"), [("<", 8), (">", 8), ("<", 16)])  # Pillow refuses the fourth
def test_a_tiff_may_count_from_white(order, bits):
    """PhotometricInterpretation 0, WhiteIsZero, as written by scanners and X-ray machines."""
    values = np.arange(0, 256, 5, dtype=f"{order}u{bits // 8}")[None] << (bits - 8)
    pixels = values.tobytes()
    fields = {256: values.size, 257: 1, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    directory = struct.pack(f"{order}H", len(fields))
    directory += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in fields.items())
    start = b"II*\0" if order == "<" else b"MM\0*"
    file = start + struct.pack(f"{order}I", 8 + len(pixels)) + pixels + directory + bytes(4)
    np.testing.assert_array_equal(image_io.decode(file)[0, :, 1], 255 - np.arange(0, 256, 5))


@pytest.mark.parametrize(
    "values",
    [
        np.ones((4, 5), np.float32),
        np.full((4, 5), 255, np.float32),
        np.full((4, 5), 200, np.int32),
        np.full((4, 5), 2**20, np.int32),
    ],
)
def test_pixels_with_an_unknown_value_of_white_are_refused(values):
    with pytest.raises(ImageError, match="the value of white is unknown") as caught:
        image_io.decode(save(values, "TIFF"))
    assert caught.value.kind == "mode"


def test_the_first_frame_or_page_is_read():
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (40, 90, 200)]
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {}), ("MPO", {})):
        content = save(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert np.abs(image_io.decode(content).astype(int) - 40).max() <= 1, form


def test_a_gifs_transparent_pixels_are_black():
    pixels = drawn(20, 30).copy()
    alpha = np.full((20, 30, 1), 255, np.uint8)
    alpha[:5] = 0
    content = save(np.concatenate([pixels, alpha], axis=2), "GIF")
    assert (image_io.decode(content)[:5] == 0).all()
    np.testing.assert_array_equal(image_io.decode(content), tf.io.decode_gif(content)[0])


def turned(pixels):
    """Returns stored pixels in the EXIF orientations 1 to 8, by the standard's table of sides."""
    flip = pixels[:, ::-1]
    ways = [pixels, flip, pixels[::-1, ::-1], pixels[::-1], np.swapaxes(pixels, 0, 1)]
    return [*ways, np.rot90(pixels, -1), np.rot90(flip, -1), np.rot90(pixels, 1)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_orientation_is_applied(form, endian, tmp_path):
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = image_io.decode(save(drawn(40, 56), form, **options))
    for value, upright in enumerate(turned(pixels), 1):
        exif = Image.Exif()
        exif.endian = endian
        exif[ExifTags.Base.Orientation] = value
        content = save(drawn(40, 56), form, exif=exif, **options)
        image = image_io.open_image(content)
        assert image_io.orientation(image) == value and image_io.stored_size(image) == (56, 40)
        (tmp_path / "x").write_bytes(content)
        assert image_io.read_size(tmp_path / "x") == upright.shape[:2]
        np.testing.assert_array_equal(image_io.to_rgb(image), upright)
        np.testing.assert_array_equal(image_io.to_rgb(image_io.open_image(content), upright=False), pixels)


def test_sizes_of_files_that_are_no_images(tmp_path):
    (tmp_path / "text").write_text("text")
    (tmp_path / "heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait
    for name, words in (("text", "a text file"), ("heic", "a HEIC"), ("pipe", "a device or pipe"), ("none", "No such")):
        with pytest.raises(ImageError, match=words):
            image_io.read_size(tmp_path / name)


def test_an_image_created_in_memory_may_have_an_orientation():
    image = Image.fromarray(drawn(40, 56))
    image.getexif()[ExifTags.Base.Orientation] = 6
    np.testing.assert_array_equal(image_io.to_rgb(image), np.rot90(drawn(40, 56), -1))
