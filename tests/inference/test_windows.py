"""Image windows: they equal the same parts of the upright image, of any orientation and kind of TIFF."""

import builtins
import struct

import numpy as np
import pytest
from PIL import Image

from htc_tf.inference import windows
from htc_tf.inference.inputs import Unreadable, as_image
from htc_tf.inference.windows import ArrayWindows, TurnedWindows, open_windows

WINDOWS = [(0, 0, 37, 53), (0, 0, 5, 7), (30, 40, 7, 13), (11, 20, 16, 16), (36, 52, 1, 1)]


def draw(height=37, width=53, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(height)
    return rng.integers(0, np.iinfo(dtype).max, [height, width, channels], dtype, endpoint=True).squeeze()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_are_upright(orientation, tmp_path):
    stored, tags = draw(), Image.Exif()
    tags[274] = orientation
    Image.fromarray(stored).save(tmp_path / "x.png", exif=tags)
    upright = as_image(tmp_path / "x.png")
    turned = TurnedWindows(ArrayWindows(stored), orientation)
    assert (turned.height, turned.width) == upright.shape[:2]
    for top, left, height, width in WINDOWS:
        top, left = (left, top) if orientation > 4 else (top, left)
        height, width = (width, height) if orientation > 4 else (height, width)
        window = turned.read(top, left, height, width)
        np.testing.assert_array_equal(window, upright[top : top + height, left : left + width])


def test_an_image_in_memory_is_not_copied():
    image = draw()
    with open_windows(image) as opened:
        assert opened.image is image and np.shares_memory(opened.read(3, 4, 5, 6), image)


@pytest.fixture
def all_in_windows(monkeypatch):
    """Reads even the smallest TIFF in windows."""
    pytest.importorskip("rasterio")
    monkeypatch.setattr(windows, "WHOLE", 0)


TAGS_OF_KINDS = {
    "RGB": {"channels": 3},
    "RGBA": {"channels": 4},
    "gray": {"channels": 1},
    "gray, alpha": {"channels": 2},
    "16 bits": {"channels": 1, "dtype": np.uint16},
}


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("kind", TAGS_OF_KINDS)
def test_a_tiff_has_the_pixels_of_pillow(kind, compression, tmp_path, all_in_windows):
    check(Image.fromarray(draw(**TAGS_OF_KINDS[kind])), tmp_path, compression=compression)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "L"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_modes_and_inversion(mode, white_is_zero, tmp_path, all_in_windows):
    tags = {262: 0} if white_is_zero and mode in ("1", "L") else {}
    check(Image.fromarray(draw()).convert(mode), tmp_path, tiffinfo=tags)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_tiff(orientation, tmp_path, all_in_windows):
    check(Image.fromarray(draw()), tmp_path, tiffinfo={274: orientation})


def test_big_tiff_and_jpeg_in_tiff(tmp_path, all_in_windows):
    check(Image.fromarray(draw()), tmp_path, big_tiff=True, tiffinfo={274: 6})
    smooth = np.uint8(np.add.outer(np.arange(37) * 2, np.arange(53))[..., None] + [0, 40, 80])
    check(Image.fromarray(smooth), tmp_path, compression="jpeg")


def check(image, folder, **options):
    """Compares the windows of an image that is saved as TIFF with those of Pillow."""
    path = folder / "x.tif"
    image.save(path, **options)
    expected = as_image(path)
    with open_windows(path) as opened:
        assert opened.image is None and (opened.height, opened.width) == expected.shape[:2]
        for top, left, height, width in WINDOWS:
            height, width = min(height, opened.height), min(width, opened.width)
            top, left = min(top, opened.height - height), min(left, opened.width - width)
            part = opened.read(top, left, height, width)
            assert part.dtype == np.uint8
            np.testing.assert_array_equal(part, expected[top : top + height, left : left + width])


def test_a_small_tiff_is_decoded_as_every_image(tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    monkeypatch.setattr("htc_tf.inference.raster.find_colors", None)  # not called: it refuses what Pillow can read
    Image.fromarray(draw()).save(tmp_path / "x.tif")
    with open_windows(tmp_path / "x.tif") as opened:
        np.testing.assert_array_equal(opened.image, draw())


def test_a_tiff_that_breaks_off_is_readable_up_to_there(tmp_path, all_in_windows):
    path = tmp_path / "x.tif"
    Image.fromarray(draw(64, 64)).save(path, tiffinfo={278: 8})  # strips of 8 rows
    content = path.read_bytes()
    path.write_bytes(content[: 64 * 64 * 3 // 2])
    damaged = pytest.raises(Unreadable, match=r"x\.tif: damaged or truncated near row 32, column 0")
    with damaged as error, open_windows(path) as opened:
        np.testing.assert_array_equal(opened.read(0, 0, 16, 64), draw(64, 64)[:16])
        opened.read(32, 0, 32, 64)
    assert "\n" not in str(error.value)


STRIP = [(273, 4, 8), (278, 4, 2**32 - 1), (279, 4, 100)]
TILE = [(322, 4, 60_000), (323, 4, 60_000), (324, 4, 8), (325, 4, 100)]


def make_header(width, height, bits=8, layout=STRIP):
    """Returns a gray TIFF, compressed in one piece, with no pixels in the file."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 8), (262, 3, 1), (277, 3, 1), *layout]
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (make_header(2**31 - 1, 2**31 - 1), "COCO's run lengths count up to 4294967296"),
        (make_header(60_000, 60_000, layout=TILE), "in pieces of 60000 x 60000, too large to decode"),
        (make_header(2**32 - 1, 2**32 - 1), "a TIFF, but damaged"),
        (make_header(100, 100, bits=32), "32-bit uint32 pixels: the value of white is unknown"),
        (b"II*\0", "a TIFF, but damaged"),
        (b"MM\0*\xff\xff\xff\xff", "a TIFF, but damaged"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, "a TIFF, but damaged"),
    ],
)
def test_hostile_headers_are_refused(content, reason, tmp_path, all_in_windows, capfd):
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=reason) as error, open_windows(path):
        pass
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_gdal_errors_about_a_later_page_are_one_line(tmp_path, all_in_windows):
    """GDAL's own exceptions, which are none of rasterio's, come from a file that is cut after its first page."""
    Image.fromarray(draw()).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    first = int.from_bytes(content[4:8], "little")
    following = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[following : following + 4] = b"\0\0\1\0"
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(Unreadable, match="damaged or truncated") as error, open_windows(tmp_path / "x.tif"):
        pass
    assert "\n" not in str(error.value)


def test_many_bands_are_refused(tmp_path, all_in_windows):
    import rasterio

    with rasterio.open(tmp_path / "x.tif", "w", "GTiff", 8, 8, 5, dtype="uint8", photometric="minisblack") as file:
        file.write(np.zeros([5, 8, 8], np.uint8))
    refused = pytest.raises(Unreadable, match=r"gray, undefined, undefined.*none of them red")
    with refused, open_windows(tmp_path / "x.tif"):
        pass


def test_without_rasterio_a_tiff_is_decoded_whole(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_rasterio(name, *rest):
        if name == "htc_tf.inference.raster":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rasterio)
    Image.fromarray(draw()).save(tmp_path / "x.tif")
    with open_windows(tmp_path / "x.tif") as opened:
        np.testing.assert_array_equal(opened.image, draw())
    (tmp_path / "x.tif").write_bytes(make_header(30_000, 30_000))
    refused = pytest.raises(
        Unreadable, match=r"30000 x 30000 pixels.*pip install rasterio \(the extra htc_tf\[geotiff\]\)"
    )
    with refused, open_windows(tmp_path / "x.tif"):
        pass


def test_a_missing_file_and_a_folder_are_refused_as_ever(tmp_path):
    for source in (tmp_path / "none.tif", tmp_path, "a\0b"):
        with pytest.raises(Unreadable), open_windows(source):
            pass
