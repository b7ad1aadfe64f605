"""What strangers send: each kind of file gives its picture or a reason, and none an error."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps

from htc_tf.data import image_io
from htc_tf.serving.decode import BMP, COSTLY, DAMAGED, EMPTY, UNKNOWN, UNREAD_BMP, decode
from htc_tf.serving.orientation import orientation, turn

ROOT = Path(__file__).parents[2]
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


@pytest.fixture(scope="module")
def read_orientation():
    return tf.function(orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def exif_block(value, kind=3, number=1, order="<", before=(), after=(), start=8):
    """A TIFF block whose first directory has the orientation as one value of a type, between other entries."""
    sizes = {1: "B", 3: "H", 4: "I"}
    content = struct.pack(order + sizes.get(kind, "H"), value).ljust(4, b"\0")
    entries = [*before, struct.pack(order + "HHI", 0x0112, kind, number) + content, *after]
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return header.ljust(start, b"\0") + directory


def with_exif(content, block):
    """A JPEG or PNG with an EXIF block as its first segment or chunk."""
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
    b"II*\0\x08\0\0\0\xff\xff" + exif_block(6)[10:],  # more entries than there are
]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_graph_reads_orientations_as_image_io_does(read_orientation, form):
    plain = save(Image.new("RGB", (8, 6)), form)
    found = set()
    for number, block in enumerate(ODD_EXIF):
        content = with_exif(plain, block)
        expected = image_io.orientation(image_io.open_image(content))
        assert read_orientation(content) == expected, (number, block)
        found.add(expected)
    assert found == set(range(1, 9))


def test_a_segment_without_its_mark_is_none(read_orientation):
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
def test_orientation(read_orientation, pixels, order):
    picture = Image.fromarray(pixels)
    for value in range(1, 9):
        exif = Image.Exif()
        exif.endian = "<" if order == "II" else ">"
        exif[ExifTags.Base.Make] = "a camera"
        exif[ExifTags.Base.Orientation] = value
        content = save(picture, "JPEG", exif=exif, comment=b"before")
        assert order.encode() in content[:40]
        assert read_orientation(content) == value
        assert read_orientation(save(picture, "PNG", exif=exif)) == value
        picture.getexif()[ExifTags.Base.Orientation] = value
        upright = np.asarray(ImageOps.exif_transpose(picture))
        np.testing.assert_array_equal(turn(tf.constant(pixels), tf.constant(value)), upright)
        # However it is cut, there is an answer.
        for length in range(0, content.index(b"\xff\xdb") + 3, 20 if value == 6 else 200):
            assert read_orientation(content[:length]) in (1, value)
    for content in (save(picture, "PNG"), b"", save(Image.new("L", (8, 8)), "JPEG")):
        assert read_orientation(content) == 1


def test_a_gifs_frame_lies_in_its_canvas(decoder, pixels):
    """Black around a frame that is smaller than the screen, and a screen that grows with a frame that is larger."""
    whole = Image.fromarray(pixels[:20, :30])
    content = bytearray(save(whole, "GIF"))
    frame = content.index(b",\0\0\0\0")
    content[6:10] = struct.pack("<HH", 50, 40)
    content[frame + 1 : frame + 5] = struct.pack("<HH", 7, 3)
    image, status = decoder(bytes(content))
    assert status == "" and image.shape == (40, 50, 3)
    np.testing.assert_array_equal(image[3:23, 7:37], image_io.decode(save(whole, "GIF")))
    np.testing.assert_array_equal(image, image_io.decode(bytes(content)))
    assert image.sum() == image[3:23, 7:37].sum() > 0
    content[6:10] = struct.pack("<HH", 10, 10)
    image, status = decoder(bytes(content))
    assert image.shape == (23, 37, 3)
    np.testing.assert_array_equal(image, image_io.decode(bytes(content)))


def test_bmps_that_tensorflow_would_misread_are_refused(decoder, pixels):
    picture = Image.fromarray(pixels)
    assert decoder(save(picture.convert("1"), "BMP"))[1] == UNREAD_BMP
    for place, value in ((28, 16), (30, 1), (30, 2), (14, 12)):  # bits, compression, an older header
        content = bytearray(save(picture, "BMP"))
        content[place] = value
        assert decoder(bytes(content))[1] == UNREAD_BMP, place


def test_what_lies_behind_a_single_scan_is_not_counted(decoder, pixels):
    """A phone appends a film to its JPEG; it holds any bytes."""
    content = save(Image.fromarray(pixels), "JPEG")
    image, status = decoder(content + b"\xff\xda" * 100)
    assert status == ""
    np.testing.assert_array_equal(image, image_io.decode(content))
    # One channel in the first scan: the decoder reads on.
    scan = content.index(b"\xff\xda")
    several = content[:scan] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + content[scan + 14 :]
    assert decoder(several + b"\xff\xda" * 100)[1] == COSTLY


PEAK = """
import sys
import tensorflow as tf
from htc_tf.serving.decode import decode
from htc_tf.serving.orientation import orientation, turn
def read(encoded):
    image, status = decode(encoded, 50_000_000)
    return turn(image, orientation(encoded)), status
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
    frames = [Image.new("L", (200, 200), number) for number in range(250)]
    contents = {
        "scans": (jpeg[:-2] + b"\xff\xda" * 2**21 + jpeg[-2:], COSTLY),
        "texts": (png(8, 8, bytes(16), png_chunk(b"zTXt", b"a\0\0") * 300_000), COSTLY),
        "comments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 2**20 + jpeg[2:], "well"),
        "frames": (save(frames[0], "GIF", save_all=True, append_images=frames[1:]), "well"),
        "side": (png(50_000_000, 1, bytes(6_250_001)), "1 x 50000000 pixels, and a side may have at most 65535"),
    }
    (tmp_path / "small").write_bytes(jpeg)
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", PEAK, *(tmp_path / name for name in ("small", *contents))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for line, (name, (_, expected)) in zip(done.stdout.splitlines(), contents.items(), strict=True):
        grown, _, status = line.partition("|")
        assert status == expected and int(grown) < 40, (name, line)
