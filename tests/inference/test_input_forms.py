"""One image in all forms in which it can be handed in: the same pixels, the same refusals and limits."""

import io
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from htc_tf.data import image_io
from htc_tf.errors import UserError
from htc_tf.inference.inputs import Unreadable, as_image, find_inputs, read_image
from tests.data.encoded_images import blank_png, png

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    **({"AVIF": ("L", "RGB", "RGBA")} if image_io.HAS_AVIF else {}),
}


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 255, (24, 40, 3), np.uint8)


@pytest.fixture
def slope():
    """[24, 40, 3] uint8, so smooth that encoders change it little."""
    rows, columns = np.mgrid[:24, :40].astype(np.uint8)
    return np.dstack([6 * columns, 6 * columns, 10 * rows])


def forms_of(path):
    """Yields an image file in all forms in which it can be handed in."""
    encoded = path.read_bytes()
    yield from (path, str(path), encoded, bytearray(encoded), memoryview(encoded), io.BytesIO(encoded))
    written = io.BytesIO()
    written.write(encoded)  # its position is at the end
    yield written
    with path.open("rb") as file, path.open("rb", buffering=0) as unbuffered:
        yield from (file, unbuffered)
    yield Image.open(path)
    loaded = Image.open(path)
    loaded.load()
    yield loaded


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_an_image_has_the_same_pixels_in_all_forms(pixels, tmp_path, form, mode):
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257 + 11)
    else:
        image = Image.fromarray(pixels).convert(mode)
    path = tmp_path / "x"  # the format is recognized by content
    image.save(path, form)
    expected = image_io.decode(path.read_bytes())  # as the preparation reads it
    assert expected.shape == (24, 40, 3) and expected.dtype == np.uint8
    for number, given in enumerate(forms_of(path)):
        np.testing.assert_array_equal(as_image(given), expected, f"form {number}")
    np.testing.assert_array_equal(as_image(expected), expected)
    if form in ("PNG", "TIFF") and mode in ("L", "RGB", "I;16"):  # lossless, and an array says all
        for given in (image, np.asarray(image)):
            np.testing.assert_array_equal(as_image(given), expected)


def test_arrays_are_read_as_files_of_their_pixels(pixels, tmp_path):
    gray = pixels[..., 1]
    np.testing.assert_array_equal(as_image(gray), np.dstack([gray] * 3))
    deep = pixels.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(as_image(deep), pixels)
    np.testing.assert_array_equal(as_image(deep[..., 0].astype(">u2")), np.dstack([pixels[..., 0]] * 3))
    (tmp_path / "deep.png").write_bytes(png(deep, 16, 2))
    np.testing.assert_array_equal(as_image(tmp_path / "deep.png"), as_image(deep))


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_deep_tiff_is_inverted_in_all_forms_if_its_zero_is_white(tmp_path, photometric):
    values = np.random.default_rng(0).integers(0, 2**16, (24, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tiff", tiffinfo={262: photometric})
    expected = (values if photometric else 0xFFFF - values) >> 8
    for given in forms_of(tmp_path / "x.tiff"):
        np.testing.assert_array_equal(as_image(given)[..., 0], expected)


def test_a_partial_first_frame_of_a_gif_lies_on_black_in_all_forms(tmp_path):
    """The background, color 1, is white, and the frame has 3 x 2 pixels at (2, 1)."""
    header = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0x80, 1, 0) + bytes([200, 30, 30, 255, 255, 255])
    frame = b"," + struct.pack("<HHHHB", 2, 1, 3, 2, 0) + b"\x02\x03\x84\x8f\x05\0"
    (tmp_path / "x.gif").write_bytes(header + frame + b";")
    expected = np.zeros((6, 8, 3), np.uint8)
    expected[1:3, 2:5] = [200, 30, 30]
    for given in forms_of(tmp_path / "x.gif"):
        np.testing.assert_array_equal(as_image(given), expected)


def test_floating_point_and_32_bits_are_refused_in_all_forms(tmp_path):
    for values in (np.ones((4, 5), np.float32), np.full((4, 5), 70_000, np.int32)):
        Image.fromarray(values).save(tmp_path / "x.tiff")
        for given in forms_of(tmp_path / "x.tiff"):
            with pytest.raises(UserError, match="the value of white is unknown"):
                as_image(given)


def test_of_several_pages_the_first_is_read_with_a_line(pixels, tmp_path, capsys):
    pages = [Image.fromarray(page) for page in (pixels, pixels[:5] // 2, pixels // 3)]
    pages[0].save(tmp_path / "x.tiff", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "x.tiff"), pixels)
    assert capsys.readouterr().err == f"note: {tmp_path / 'x.tiff'} has several pages, and only the first is read\n"
    pages[0].save(tmp_path / "y.tiff")
    np.testing.assert_array_equal(read_image(tmp_path / "y.tiff"), pixels)
    third = Image.open(tmp_path / "x.tiff")
    third.seek(2)  # of a PIL image the page that the caller chose
    np.testing.assert_array_equal(as_image(third), pixels // 3)
    assert not capsys.readouterr().err


def test_file_objects_that_give_no_image(tmp_path):
    class Broken(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    closed = io.BytesIO(b"x")
    closed.close()
    (tmp_path / "x.txt").write_text("text")
    with (tmp_path / "x.txt").open() as text, (tmp_path / "x.txt").open("rb") as binary:
        for given, words in [
            (io.StringIO("text"), 'opened as text: open it with mode "rb"'),
            (text, 'opened as text: open it with mode "rb"'),
            (binary, "a text file"),
            (io.BytesIO(), "an empty file"),
            (b"", "an empty file"),
            (closed, "closed file"),
            (Broken(), "Input/output error"),
        ]:
            with pytest.raises(Unreadable, match=words):
                as_image(given)


def test_a_pipe_is_read_to_its_end(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")

    class Pipe(io.RawIOBase):
        content = io.BytesIO(stream.getvalue())

        def seekable(self):
            return False

        def read(self, size=-1):
            return self.content.read(min(size, 100))

    np.testing.assert_array_equal(as_image(Pipe()), pixels)


def test_file_objects_are_bounded(monkeypatch):
    asked = []

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            asked.append(size)
            return bytes(size)

    monkeypatch.setattr(image_io, "MAX_BYTES", 1000)
    with pytest.raises(Unreadable, match="more than the 1000 bytes"):
        as_image(Endless())
    assert asked == [1001]


def test_larger_images_need_leave(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(blank_png(20_000, 9_000))
    for given in (path, path.read_bytes()):  # Pillow itself opens no such image
        with pytest.raises(Unreadable, match=r"20000 x 9000 pixels, more than max_pixels 178956970: raise it"):
            as_image(given)
    with pytest.raises(Unreadable, match=r"x\.png: 20000 x 9000 pixels, more than --max_pixels 5: raise it"):
        read_image(path, 5, "--max_pixels")
    path.write_bytes(blank_png(300, 200))
    for given in (path, path.read_bytes(), Image.open(path)):
        with pytest.raises(Unreadable, match="max_pixels 59999"):
            as_image(given, 59_999)
        assert as_image(given, 60_000).shape == (200, 300, 3)


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 1), (4, 4, 2), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3)])
def test_arrays_of_other_shapes_are_refused(shape):
    with pytest.raises(UserError, match=r"type ndarray: uint8 .*, neither gray \[H, W\] nor RGB .* give a path"):
        as_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, float])
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_floating_point_arrays_are_refused_as_files_are(shape, dtype):
    with pytest.raises(UserError, match=r"floating-point pixels: the value of white is unknown.* give a path"):
        as_image(np.zeros(shape, dtype))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.int32), np.zeros((4, 4), bool), 3.5, None, [[1, 2]], object()])
def test_other_types_are_refused(wrong):
    with pytest.raises(UserError, match="give a path"):
        as_image(wrong)


def test_arrays_without_pixels_are_refused():
    for empty in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0), np.uint16)):
        with pytest.raises(UserError, match="without pixels"):
            as_image(empty)


@pytest.mark.skipif(not image_io.HAS_AVIF, reason="this Pillow reads no AVIF")
def test_the_orientation_of_an_avif_is_applied(slope, tmp_path):
    for value, turns in ((3, 2), (6, -1), (8, 1)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        Image.fromarray(slope).save(tmp_path / "x.avif", quality=95, exif=exif)  # Pillow writes it as irot and imir
        for given in forms_of(tmp_path / "x.avif"):
            assert np.abs(as_image(given).astype(int) - np.rot90(slope, turns)).mean() < 6, value


def test_avif_without_its_decoder_is_named(monkeypatch):
    content = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100)
    monkeypatch.setattr(image_io, "HAS_AVIF", True)
    with pytest.raises(Unreadable, match="an AVIF, but damaged, truncated"):
        as_image(content)
    monkeypatch.setattr(image_io, "HAS_AVIF", False)
    monkeypatch.setattr(image_io, "FORMATS", ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"))
    with pytest.raises(Unreadable, match=r"an AVIF, which Pillow 11\.3 or newer reads: pip install --upgrade pillow"):
        as_image(content)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.fixture
def formats():
    """Pillow's formats are as before after the test."""
    known = dict(Image.OPEN), list(Image.ID)
    yield
    Image.OPEN.clear()
    Image.OPEN.update(known[0])
    Image.ID[:] = known[1]


def test_heic_is_read_by_the_extra(pixels, monkeypatch, formats):
    """A stand-in for pillow-heif, which registers a format with Pillow when it is asked to."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Unreadable, match=r"a HEIC .*: pip install pillow-heif \(the extra htc_tf\[heic\]\)"):
        as_image(HEIC)

    def read(file, name):
        if file.read()[-1]:
            raise ValueError("damaged")
        image = Image.fromarray(pixels)
        image.format = "HEIF"
        return image

    def register():
        Image.register_open("HEIF", read, lambda start: start[8:12] == b"heic")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    np.testing.assert_array_equal(as_image(HEIC), pixels)
    with pytest.raises(Unreadable, match=r"a HEIC .*, but damaged, truncated or of an unsupported variant"):
        as_image(HEIC + b"x")
    with pytest.raises(Unreadable, match="40 x 24 pixels, more than max_pixels 900"):
        as_image(HEIC, 900)


def test_heic_by_pillow_heif_itself(slope, tmp_path, formats):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    pillow_heif.register_heif_opener()
    for value in (1, 6):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        Image.fromarray(slope).save(tmp_path / "x.heic", quality=95, exif=exif.tobytes())
        upright = np.rot90(slope, -1) if value == 6 else slope
        first = as_image(tmp_path / "x.heic")
        assert np.abs(first.astype(int) - upright).mean() < 6
        for given in forms_of(tmp_path / "x.heic"):
            np.testing.assert_array_equal(as_image(given), first)
    content = (tmp_path / "x.heic").read_bytes()
    with pytest.raises(Unreadable, match="damaged"):
        as_image(content[: len(content) // 2])


def test_jpeg_2000_is_named(pixels, tmp_path):
    if features.check("jpg_2000"):
        Image.fromarray(pixels).save(tmp_path / "x.jp2", "JPEG2000")
    else:
        (tmp_path / "x.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    assert find_inputs([str(tmp_path)]) == [tmp_path / "x.jp2"]  # not passed over
    with pytest.raises(Unreadable, match="JPEG 2000, an unsupported format: convert it to JPEG or PNG"):
        read_image(tmp_path / "x.jp2")


def test_pil_images_that_are_closed_or_empty_are_named_as_such(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    with Image.open(path) as unread, Image.open(path) as read:
        read.load()
    read.close()
    for image in (unread, read):
        with pytest.raises(UserError, match=r"PngImageFile: .*closed"):
            as_image(image)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"IDAT") + 6] ^= 255
    with pytest.raises(UserError, match=r"PngImageFile: a PNG, but damaged"):
        as_image(Image.open(io.BytesIO(damaged)))
    with pytest.raises(UserError, match=r"an image without pixels, 0 x 5"):
        as_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("max_pixels", [None, "100", 0, 1.5])
def test_a_limit_that_is_no_number_of_pixels_is_refused(max_pixels):
    with pytest.raises(UserError, match=r"max_pixels=.*: give a number of pixels, 1 or more"):
        as_image(np.zeros((2, 2), np.uint8), max_pixels)
