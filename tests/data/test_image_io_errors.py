"""Refused image files: messages that say what a file is, and bounds on pixels, parts and memory."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htc_tf.data import image_io
from htc_tf.data.image_checks import END_OF_JPEG
from htc_tf.data.image_io import ImageError
from tests.data.encoded_images import blank_png, drawn, png, png_chunk, save

ROOT = Path(__file__).parents[2]

NOT_IMAGES = {
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
    'a text file that begins "hello there"': b"hello there\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30),
    "a zip archive": b"PK\x03\x04" + bytes(30),
    "zero bytes": bytes(500),
    "macOS resource file": b"\0\5\x16\7" + bytes(30),
    "begins with de ad be ef": b"\xde\xad\xbe\xef" * 9,
    "a JPEG, but damaged": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "a PNG, but damaged": b"\x89PNG\r\n\x1a\n\0\0",
}


@pytest.mark.parametrize("words", NOT_IMAGES)
def test_the_message_says_what_a_file_is(words):
    with pytest.raises(ImageError) as caught:
        image_io.decode(NOT_IMAGES[words])
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
def test_truncation_and_damage_anywhere_raise_an_image_error(form):
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
def test_the_end_marker_of_a_thumbnail_is_not_the_images(form):
    """A phone's JPEG has a thumbnail in its EXIF data, and may have previews after it."""
    exif = b"Exif\0\0" + save(drawn(6, 9), "JPEG")
    content = save(drawn(), form, exif=exif)
    assert content.count(END_OF_JPEG) == 2 and image_io.decode(content).shape == (97, 131, 3)
    with pytest.raises(ImageError, match="truncated"):
        image_io.decode(content[: content.rindex(END_OF_JPEG)])


def test_eps_starts_no_program(tmp_path, monkeypatch):
    """Pillow would start Ghostscript to decode the pixels of an EPS file."""
    marker = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ImageError, match="EPS"):
        image_io.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    assert not marker.exists()


def test_limits_on_pixels_and_sides_are_checked_in_the_header():
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
    assert before == Image.MAX_IMAGE_PIXELS  # the user's own limit stays


def test_scans_are_counted_where_they_cost():
    """A progressive JPEG of 100 scans is refused; data after a single scan, such as a phone's film, is not read."""
    content = save(drawn(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="more than 30 scans"):
        image_io.decode(content[:-2] + 100 * content[last:-2] + content[-2:])
    film = save(drawn(), "JPEG") + b"\xff\xda" * 100
    np.testing.assert_array_equal(image_io.decode(film), image_io.decode(save(drawn(), "JPEG")))
    np.testing.assert_array_equal(image_io.decode(content + film), image_io.decode(content))
    # An end in a comment between two scans, or very many comments, hide none.
    comment = b"\xff\xfe\0\4" + END_OF_JPEG
    for between in (comment, 5000 * b"\xff\xfe\0\2"):
        with pytest.raises(ImageError, match="more than 30 scans or 4096 segments, which no encoder writes"):
            image_io.decode(content[:-2] + between + 100 * content[last:-2] + content[-2:])


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
def test_files_of_very_many_parts_are_refused(kind):
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
    """Returns the MiB by which decoding a file increases a process's peak memory."""
    (tmp_path / "small.jpg").write_bytes(save(drawn(), "JPEG"))
    (tmp_path / "large").write_bytes(content)
    command = [sys.executable, "-c", PEAK, tmp_path / "small.jpg", tmp_path / "large"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_is_bounded_by_one_image(tmp_path):
    side, frames = 200, 300  # 36 MB as RGB
    images = [Image.fromarray(np.full((side, side), number % 250, np.uint8)) for number in range(frames)]
    for form in ("GIF", "WEBP", "TIFF"):
        assert grown(tmp_path, save(images[0], form, save_all=True, append_images=images[1:])) < 20, form
    assert grown(tmp_path, save(drawn(), "JPEG")[:-2] + b"\xff\xda" * 2**22) < 30  # a file of 8 MiB
    assert grown(tmp_path, blank_png(60000, 20000)) < 20  # 1,200 million pixels
