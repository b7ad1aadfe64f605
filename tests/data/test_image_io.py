"""Image files as users have them: each gives its pixels, or a message that says what it is; none takes the machine."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image

from htc_tf.data import image_io
from htc_tf.data.image_io import ImageError
from htc_tf.data.preprocessing import decode_rgb

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / "shared" / "data" / "coco_sample"


def drawn(height=97, width=131):
    """[height, width, 3] uint8, smooth with some noise."""
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
    """A PNG of any bit depth and color type, which Pillow does not write; values [h, w] or [h, w, channels]."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        rows = [
            np.packbits(np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]) for row in values
        ]
        rows = [row.tobytes() for row in rows]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + png_chunk(b"IEND", b"")


# ---- the same pixels from both decoders ------------------------------------------------------------------------------


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


def test_cocos_jpegs_are_the_same_by_tensorflow_and_pillow():
    files = sorted(COCO.glob("**/*.jpg"))[::20]
    if not files:
        pytest.skip("no sample of COCO beside the checkout")
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
    """Gray, RGB, palette and alpha of all depths: alpha is dropped, and 16 bits give their high byte."""
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
def test_transparency_of_a_palette_is_dropped_without_a_word():
    random = np.random.default_rng(0)
    colors, values = random.integers(0, 256, (256, 3), np.uint8), random.integers(0, 256, (11, 13))
    before = png_chunk(b"PLTE", colors.tobytes()) + png_chunk(b"tRNS", bytes(random.integers(0, 256, 256, np.uint8)))
    content = png(values, 8, 3, before)
    np.testing.assert_array_equal(image_io.decode(content), colors[values])
    np.testing.assert_array_equal(decode_rgb(content), colors[values])


# ---- modes and formats -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_high_byte(form):
    values = np.random.default_rng(0).integers(0, 2**16, (11, 13)).astype(np.uint16)
    pixels = image_io.decode(save(values, form))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))


@pytest.mark.parametrize(("order", "bits"), [("<", 8), (">", 8), ("<", 16)])  # Pillow refuses the fourth
def test_a_tiff_may_count_from_white(order, bits):
    """As scanners and X-ray machines write it: PhotometricInterpretation 0, WhiteIsZero."""
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
def test_pixels_whose_white_nobody_knows_are_refused(values):
    with pytest.raises(ImageError, match="nothing says which value is white") as caught:
        image_io.decode(save(values, "TIFF"))
    assert caught.value.kind == "mode"


def test_of_animations_and_pages_the_first_is_read():
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


# ---- orientation -----------------------------------------------------------------------------------------------------


def turned(pixels):
    """What orientations 1 to 8 make of stored pixels, by the EXIF standard's table of sides."""
    flip = pixels[:, ::-1]
    ways = [pixels, flip, pixels[::-1, ::-1], pixels[::-1], np.swapaxes(pixels, 0, 1)]
    return [*ways, np.rot90(pixels, -1), np.rot90(flip, -1), np.rot90(pixels, 1)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_orientation_is_applied(form, endian):
    options = {"lossless": True} if form == "WEBP" else {}
    pixels = image_io.decode(save(drawn(40, 56), form, **options))
    for value, upright in enumerate(turned(pixels), 1):
        exif = Image.Exif()
        exif.endian = endian
        exif[ExifTags.Base.Orientation] = value
        content = save(drawn(40, 56), form, exif=exif, **options)
        image = image_io.open_image(content)
        assert image_io.orientation(image) == value and image_io.stored_size(image) == (56, 40)
        np.testing.assert_array_equal(image_io.to_rgb(image), upright)
        np.testing.assert_array_equal(image_io.to_rgb(image_io.open_image(content), upright=False), pixels)


def test_an_image_made_in_memory_may_carry_an_orientation():
    image = Image.fromarray(drawn(40, 56))
    image.getexif()[ExifTags.Base.Orientation] = 6
    np.testing.assert_array_equal(image_io.to_rgb(image), np.rot90(drawn(40, 56), -1))


# ---- messages --------------------------------------------------------------------------------------------------------

NO_IMAGES = {
    "empty file": b"",
    "HTML page": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "HTML page ": b"\xef\xbb\xbf<html>Log in</html>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    "HEIC ": b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(200),
    "AVIF": b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(200),
    "a video": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(200),
    "a JSON file": b'{"message": "Not Found"}',
    "an XML file": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "an SVG drawing": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "a PDF document": b"%PDF-1.7\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    'a text file, which begins "hello there"': b"hello there\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30),
    "ZIP archive": b"PK\x03\x04" + bytes(30),
    "zero bytes": bytes(500),
    "macOS resource file": b"\0\5\x16\7" + bytes(30),
    "begins with de ad be ef": b"\xde\xad\xbe\xef" * 9,
    "a JPEG, but damaged": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a PNG, but damaged": b"\x89PNG\r\n\x1a\n\0\0",
}


@pytest.mark.parametrize("words", NO_IMAGES)
def test_a_file_that_is_no_image_is_named_for_what_it_is(words):
    with pytest.raises(ImageError) as caught:
        image_io.decode(NO_IMAGES[words])
    assert words.strip() in str(caught.value)
    assert "BytesIO" not in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.kind == "unreadable"


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("", "is a folder"), ("none.jpg", "No such file"), ("a\0b", "null byte"), ("pipe", "pipe")):
        with pytest.raises(ImageError, match=words):
            image_io.read_file(f"{tmp_path}/{name}")
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(image_io.MAX_BYTES + 1)
    with pytest.raises(ImageError, match="more than the 536870912 that are read"):
        image_io.read_file(tmp_path / "large.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncation_and_damage_are_an_image_error_wherever_they_are(form):
    content = save(drawn(), form)
    random = np.random.default_rng(0)
    for length in [*range(0, len(content) - 1, max(1, len(content) // 40))]:
        with pytest.raises(ImageError):
            image_io.decode(content[:length])
    for _ in range(100):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 400), 3):
            damaged[place] = random.integers(256)
        try:
            assert image_io.decode(bytes(damaged), 10**6).dtype == np.uint8
        except ImageError as error:
            assert str(error)


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_thumbnails_end_is_not_the_images(form):
    """A phone's JPEG has a thumbnail in its EXIF, and may have previews behind it."""
    exif = b"Exif\0\0" + save(drawn(6, 9), "JPEG")
    content = save(drawn(), form, exif=exif)
    assert content.count(image_io.END_OF_JPEG) == 2 and image_io.decode(content).shape == (97, 131, 3)
    with pytest.raises(ImageError, match="truncated"):
        image_io.decode(content[: content.rindex(image_io.END_OF_JPEG)])


def test_eps_starts_no_program(tmp_path, monkeypatch):
    """Pillow gives an EPS file to Ghostscript when its pixels are wanted."""
    marker = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match="EPS"):
        image_io.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    assert not marker.exists()


# ---- bounds ----------------------------------------------------------------------------------------------------------


def blank_png(width, height):
    """One bit a pixel, all black: a few kilobytes, however large."""
    return png(np.zeros((height, width), np.uint8), 1, 0)


def test_bounds_by_pixels_and_sides_are_those_of_the_header():
    for content, words in (
        (blank_png(300, 200), "300 x 200 pixels, more than the 10000 that are read"),
        (blank_png(70000, 1), "70000 x 1 pixels, and a side may have at most 65535"),
        (blank_png(1, 70000), "1 x 70000 pixels, and a side may have at most 65535"),
    ):
        limit = 10_000 if "10000" in words else image_io.MAX_PIXELS
        with pytest.raises(ImageError, match=words) as caught:
            image_io.open_image(content, limit)
        assert caught.value.kind == "too_large"
    with pytest.raises(ImageError, match="300 x 200 pixels, more than --max_pixels 9"):
        image_io.open_image(blank_png(300, 200), 9, "--max_pixels 9")
    header = blank_png(8, 8)
    vast = header.replace(struct.pack(">II", 8, 8), struct.pack(">II", 60000, 60000))
    crc = zlib.crc32(vast[12:29])
    vast = vast[:29] + struct.pack(">I", crc) + vast[33:]
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="60000 x 60000 pixels, more than the 178956970"):
        image_io.open_image(vast)
    assert before == Image.MAX_IMAGE_PIXELS  # the user's own bound stays


def test_scans_are_counted_where_they_cost():
    """A progressive JPEG of a hundred scans; what lies behind a single scan, such as a phone's film, is not read."""
    content = save(drawn(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="more than 30 scans"):
        image_io.decode(content[:-2] + 100 * content[last:-2] + content[-2:])
    film = save(drawn(), "JPEG") + b"\xff\xda" * 100
    np.testing.assert_array_equal(image_io.decode(film), image_io.decode(save(drawn(), "JPEG")))


GIF_HEADER = b"GIF89a\x08\0\x08\0\0\0\0"
MANY_PARTS = {
    "JPEG comments": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + save(drawn(), "JPEG")[2:],
    "JPEG padding": lambda: b"\xff\xd8" + b"\xff" * 100_000 + save(drawn(), "JPEG")[2:],
    "JPEG markers": lambda: b"\xff\xd8" + b"\xff\x00" * 100_000 + save(drawn(), "JPEG")[2:],
    "PNG texts": lambda: png(np.zeros((8, 8)), 8, 0, png_chunk(b"tEXt", b"a\0b") * 100_000),
    "PNG pixels": lambda: png(np.zeros((8, 8)), 8, 0, png_chunk(b"IDAT", b"") * 100_000),
    "GIF comments": lambda: GIF_HEADER + b"!\xfe\x01a\0" * 100_000 + b",",
    "GIF blocks": lambda: GIF_HEADER + b"!\xfe" + b"\x01a" * 100_000 + b"\0,",
}


@pytest.mark.parametrize("kind", MANY_PARTS)
def test_files_in_very_many_pieces_are_refused(kind):
    with pytest.raises(ImageError, match="which no encoder writes") as caught:
        image_io.open_image(MANY_PARTS[kind]())
    assert caught.value.kind == "too_large"


PEAK = """
import sys
from htc_tf.data import image_io
image_io.decode(open(sys.argv[1], "rb").read())
def peak():
    return [int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
before = peak()
try:
    image_io.decode(open(sys.argv[2], "rb").read())
except image_io.ImageError:
    pass
print(peak() - before)
"""


def grown(tmp_path, content):
    """MiB by which reading a file lets the memory of a process grow."""
    (tmp_path / "small.jpg").write_bytes(save(drawn(), "JPEG"))
    (tmp_path / "large").write_bytes(content)
    command = [sys.executable, "-c", PEAK, tmp_path / "small.jpg", tmp_path / "large"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_is_that_of_one_image_whatever_the_file_holds(tmp_path):
    side, frames = 200, 300  # 36 MB as RGB
    images = [Image.fromarray(np.full((side, side), number % 250, np.uint8)) for number in range(frames)]
    for form in ("GIF", "WEBP", "TIFF"):
        assert grown(tmp_path, save(images[0], form, save_all=True, append_images=images[1:])) < 20, form
    assert grown(tmp_path, save(drawn(), "JPEG")[:-2] + b"\xff\xda" * 2**22) < 30  # a file of 8 MiB
    assert grown(tmp_path, blank_png(60000, 20000)) < 20  # 1,200 million pixels in 150 KB
