"""Image files: stored unchanged if training can decode them, converted by rule, or rejected by name."""

import io
import json
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from htc_tf.data.image_checks import END_OF_JPEG
from htc_tf.data.image_io import HAS_AVIF
from htc_tf.data.preprocessing import decode_rgb
from htc_tf.inference.inputs import as_image
from pipelines import images
from pipelines.checks import IMAGE_REASONS, Counters, Rejected

HEIGHT, WIDTH = 24, 36
EXIF_ORIENTATION = 0x0112


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    return root


def gradient(mode="RGB", height=HEIGHT, width=WIDTH):
    """A gradient, in which rotation and mirroring are visible."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 10, columns * 7, rows + columns], axis=-1).astype(np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def load(folder, name="a.jpg", height=HEIGHT, width=WIDTH, max_pixels=10_000, decode="full", exif="apply"):
    counters = Counters()
    encoded, stored = images.load_image(
        os.path.realpath(folder), name, height, width, max_pixels, decode, exif, counters
    )
    assert json.dumps(counters.counts)  # as in the shard's sidecar
    return encoded, stored, {key: number for key, number in counters.counts.items() if number}


def pixels_of(encoded):
    return decode_rgb(encoded).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("ending, stored", [("jpg", "jpeg"), ("png", "png")])
def test_plain_images_are_stored_unchanged(folder, mode, ending, stored):
    gradient(mode).save(folder / f"a.{ending}")
    assert load(folder, f"a.{ending}") == ((folder / f"a.{ending}").read_bytes(), stored, {})


def test_sixteen_bits_of_rgb_are_stored_unchanged(folder):
    """Training's decoder keeps the high bytes, as prediction does."""
    pixels = np.random.RandomState(0).randint(0, 2**16, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    (folder / "a.png").write_bytes(tf.io.encode_png(pixels).numpy())
    encoded, stored, counts = load(folder, "a.png")
    assert (encoded, stored, counts) == ((folder / "a.png").read_bytes(), "png", {})
    np.testing.assert_array_equal(pixels_of(encoded), pixels >> 8)
    np.testing.assert_array_equal(as_image(folder / "a.png"), pixels >> 8)


def test_a_cameras_jpeg_with_a_preview_is_a_jpeg(folder):
    gradient().save(folder / "a.jpg", format="MPO", save_all=True, append_images=[gradient(height=6, width=9)])
    assert PIL.Image.open(folder / "a.jpg").format == "MPO"
    assert load(folder)[1:] == ("jpeg", {})


@pytest.mark.parametrize(
    "mode, ending", [("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("RGB", "bmp")]
)
def test_other_modes_and_formats_become_rgb_png(folder, mode, ending):
    gradient(mode).save(folder / f"a.{ending}")
    encoded, stored, counts = load(folder, f"a.{ending}")
    assert (stored, counts) == ("png", {"images_converted": 1})
    np.testing.assert_array_equal(pixels_of(encoded), PIL.Image.open(folder / f"a.{ending}").convert("RGB"))


FORMATS = {"jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "P", "RGBA", "I;16"), "tif": ("RGB", "L", "CMYK", "I;16")}
FORMATS |= {"webp": ("RGB", "RGBA"), "gif": ("P",), "bmp": ("RGB",), **({"avif": ("RGB",)} if HAS_AVIF else {})}


@pytest.mark.parametrize("ending, mode", [(ending, mode) for ending, modes in FORMATS.items() for mode in modes])
def test_a_record_has_the_pixels_that_prediction_reads(folder, ending, mode):
    deep = np.asarray(gradient("L")).astype(np.uint16) * 257
    image = PIL.Image.fromarray(deep) if mode == "I;16" else gradient(mode)
    image.save(folder / f"a.{ending}")
    encoded, _, counts = load(folder, f"a.{ending}")
    np.testing.assert_array_equal(pixels_of(encoded), as_image(folder / f"a.{ending}"))
    assert not {*counts} - {"images_converted"}


def test_of_several_pages_the_first_is_stored_and_counted(folder):
    pages = [gradient("L", 30, 40), gradient("CMYK")]
    gradient().save(folder / "a.tif", save_all=True, append_images=pages)
    encoded, _, counts = load(folder, "a.tif")
    assert counts == {"images_converted": 1, "images_of_pages": 1}
    np.testing.assert_array_equal(pixels_of(encoded), gradient())
    np.testing.assert_array_equal(as_image(folder / "a.tif"), gradient())


def test_sixteen_bits_keep_the_high_byte(folder):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 70
    PIL.Image.fromarray(values).save(folder / "a.png")
    encoded, stored, counts = load(folder, "a.png")
    assert (stored, counts) == ("png", {"images_converted": 1})
    np.testing.assert_array_equal(pixels_of(encoded)[..., 0], values >> 8)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits, dark", [(8, 1), (12, 1), (13, 0), (16, 0)])
def test_twelve_bits_in_sixteen_are_counted(folder, ending, bits, dark):
    values = np.linspace(0, 2**bits - 1, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    PIL.Image.fromarray(values).save(folder / f"a.{ending}")
    encoded, _, counts = load(folder, f"a.{ending}")
    np.testing.assert_array_equal(pixels_of(encoded)[..., 0], values >> 8)
    assert counts == {"images_converted": 1, **({"images_dark": 1} if dark else {})}


def test_a_black_image_of_sixteen_bits_is_not_dark(folder):
    PIL.Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(folder / "a.png")
    assert load(folder, "a.png")[2] == {"images_converted": 1}


def save_with_orientation(path, orientation):
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    gradient().save(path, exif=exif, quality=95)


def test_exif_rotation_is_applied_if_the_annotated_size_requires_it(folder):
    save_with_orientation(folder / "a.jpg", 6)
    encoded, stored, counts = load(folder, height=WIDTH, width=HEIGHT)
    assert (stored, counts) == ("png", {"images_turned": 1})
    np.testing.assert_array_equal(pixels_of(encoded), np.rot90(PIL.Image.open(folder / "a.jpg"), -1))


def test_exif_rotation_is_ignored_if_the_size_agrees_without(folder):
    save_with_orientation(folder / "a.jpg", 6)
    assert load(folder) == ((folder / "a.jpg").read_bytes(), "jpeg", {"exif_ignored": 1})


def truncated(path):
    stream = io.BytesIO()
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * 3 // 4])


def damaged_png(path):
    gradient().save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(content)


BROKEN = [
    ("image_missing", lambda path: None),
    ("image_unreadable", lambda path: path.write_bytes(b"")),
    ("image_unreadable", lambda path: path.write_text("<html>404</html>")),
    ("image_unreadable", lambda path: path.mkdir()),
    ("image_unreadable", os.mkfifo),  # opening one would wait for a writer
    ("image_unreadable", truncated),
    ("image_unreadable", damaged_png),
    ("image_size_differs", lambda path: gradient(height=WIDTH, width=HEIGHT).save(path)),
    ("image_size_differs", lambda path: gradient(height=HEIGHT - 1).save(path)),
    ("image_too_large", lambda path: gradient(height=101, width=100).save(path)),
    ("image_mode", lambda path: gradient("F").save(path, "TIFF")),
]


@pytest.mark.parametrize("decode", ["full", "header"])
@pytest.mark.parametrize("reason, make", BROKEN)
def test_broken_images_are_rejected(folder, reason, make, decode):
    make(folder / "a.jpg")
    with pytest.raises(Rejected) as error:
        load(folder, decode=decode)
    assert error.value.reason == reason
    assert reason in IMAGE_REASONS


def test_a_thumbnails_end_is_not_the_images(folder):
    """EXIF may hold a JPEG with an end of its own; the file is truncated after it."""
    stream = io.BytesIO()
    gradient(height=6, width=9).save(stream, "JPEG")
    gradient().save(folder / "a.jpg", exif=b"Exif\0\0" + stream.getvalue())
    content = (folder / "a.jpg").read_bytes()
    assert content.count(END_OF_JPEG) == 2
    assert load(folder, decode="header")[1] == "jpeg"
    (folder / "a.jpg").write_bytes(content[:-2])
    with pytest.raises(Rejected, match="truncated"):
        load(folder, decode="header")


def test_the_check_refuses_the_same_files_as_trainings_decoder(folder):
    """At an eighth of the size as at full size: of 60 files with damaged pixels, the same are refused."""
    random = np.random.RandomState(0)
    stream = io.BytesIO()
    PIL.Image.fromarray(random.randint(0, 255, (48, 56, 3), np.uint8)).save(stream, "JPEG")
    start, refused = stream.getvalue().index(b"\xff\xda"), []
    for number in range(60):
        content = bytearray(stream.getvalue())
        content[random.randint(start + 14, len(content) - 2)] = (0xFF, random.randint(256))[number % 2]
        try:
            pixels_of(bytes(content))
            expected = True
        except tf.errors.InvalidArgumentError:
            expected = False
        (folder / "a.jpg").write_bytes(content)
        try:
            load(folder, height=48, width=56)
            accepted = True
        except Rejected as error:
            assert error.reason == "image_unreadable"
            accepted = False
        assert accepted == expected, number
        refused.append(not accepted)
    assert 0 < sum(refused) < 60


@pytest.mark.parametrize("through", ["name", "link", "folder"])
def test_files_outside_the_image_folder_are_rejected(folder, through):
    outside = folder.parent / "images2"
    outside.mkdir()
    gradient().save(outside / "a.jpg")
    if through == "link":
        (folder / "a.jpg").symlink_to(outside / "a.jpg")
    if through == "folder":
        (folder / "sub").symlink_to(outside)
    name = {"name": "../images2/a.jpg", "link": "a.jpg", "folder": "sub/a.jpg"}[through]
    with pytest.raises(Rejected) as error:
        load(folder, name)
    assert error.value.reason == "image_outside_root"


EVERY_ORIENTATION = range(1, 9)


def turned_by(orientation, pixels):
    """Returns stored pixels as a viewer shows them, by the EXIF standard's table of sides, not by Pillow."""
    flip = pixels[:, ::-1]
    ways = {1: pixels, 2: flip, 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: np.swapaxes(pixels, 0, 1)}
    ways |= {6: np.rot90(pixels, -1), 7: np.rot90(flip, -1), 8: np.rot90(pixels, 1)}
    return ways[orientation]


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", EVERY_ORIENTATION)
@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_orientations_that_keep_the_size_follow_the_option(folder, ending, orientation, exif):
    """Any orientation of a square: each kind of file that carries one is stored as the annotators saw it."""
    tags = PIL.Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    pixels = np.asarray(gradient(width=HEIGHT))
    PIL.Image.fromarray(pixels).save(
        folder / f"a.{ending}", exif=tags, **{"lossless": True} if ending == "webp" else {}
    )
    encoded, _, counts = load(folder, f"a.{ending}", width=HEIGHT, exif=exif)
    applied = exif == "apply" and orientation != 1
    np.testing.assert_array_equal(pixels_of(encoded), turned_by(orientation if applied else 1, pixels))
    assert counts.get("images_turned", 0) == applied
    assert counts.get("exif_ignored", 0) == (not applied and orientation != 1)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_the_annotated_size_decides_a_quarter_turn_for_any_option(folder, ending, exif):
    tags = PIL.Image.Exif()
    tags[EXIF_ORIENTATION] = 8
    gradient().save(folder / f"a.{ending}", exif=tags)
    stored = np.asarray(PIL.Image.open(folder / f"a.{ending}").convert("RGB"))
    if ending == "tif":
        stored = np.rot90(stored, -1)  # Pillow has turned it
    upright, _, counts = load(folder, f"a.{ending}", height=WIDTH, width=HEIGHT, exif=exif)
    np.testing.assert_array_equal(pixels_of(upright), np.rot90(stored, 1))
    assert counts == {"images_turned": 1}
    _, _, counts = load(folder, f"a.{ending}", exif=exif)
    assert counts["exif_ignored"] == 1 and "images_turned" not in counts


@pytest.mark.parametrize("decode", ["full", "header"])
def test_converted_images_are_read_to_their_end(folder, decode):
    """A palette PNG with a flipped bit, and a truncated CMYK JPEG: Pillow alone would accept both."""
    gradient("P").save(folder / "a.png")
    content = bytearray((folder / "a.png").read_bytes())
    content[-20] ^= 1  # in the checksum of the pixels
    (folder / "a.png").write_bytes(content)
    gradient("CMYK").save(folder / "a.jpg")
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-2])
    for name in ("a.png", "a.jpg"):
        with pytest.raises(Rejected) as error:
            load(folder, name, decode=decode)
        assert error.value.reason == "image_unreadable"


def test_an_image_of_too_many_pixels_names_the_flag(folder):
    gradient(height=101, width=100).save(folder / "a.jpg")
    with pytest.raises(Rejected, match=r"100 x 101 pixels, more than --max_pixels 10000"):
        load(folder)
