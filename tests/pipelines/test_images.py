"""Image files: stored as they are where training can decode them, converted by rule, or rejected by name."""

import io
import os
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from pipelines import images
from pipelines.checks import IMAGE_REASONS, Rejected, Tally

HEIGHT, WIDTH = 24, 36
EXIF_ORIENTATION = 0x0112


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    return root


def picture(mode="RGB", height=HEIGHT, width=WIDTH):
    """A gradient, so that a turned or mirrored image is seen to be."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 10, columns * 7, rows + columns], axis=-1).astype(np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def load(folder, name="a.jpg", height=HEIGHT, width=WIDTH, max_pixels=10_000):
    tally = Tally()
    encoded, stored = images.load_image(os.path.realpath(folder), name, height, width, max_pixels, tally)
    return encoded, stored, {key: number for key, number in tally.counters.items() if number}


def decode(encoded):
    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("ending, stored", [("jpg", "jpeg"), ("png", "png")])
def test_plain_images_are_stored_as_they_are(folder, mode, ending, stored):
    picture(mode).save(folder / f"a.{ending}")
    assert load(folder, f"a.{ending}") == ((folder / f"a.{ending}").read_bytes(), stored, {})


def test_a_cameras_jpeg_with_a_preview_is_a_jpeg(folder):
    picture().save(folder / "a.jpg", format="MPO", save_all=True, append_images=[picture(height=6, width=9)])
    assert PIL.Image.open(folder / "a.jpg").format == "MPO"
    assert load(folder)[1:] == ("jpeg", {})


@pytest.mark.parametrize(
    "mode, ending", [("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("RGB", "bmp")]
)
def test_other_modes_and_formats_become_rgb_png(folder, mode, ending):
    picture(mode).save(folder / f"a.{ending}")
    encoded, stored, counts = load(folder, f"a.{ending}")
    assert (stored, counts) == ("png", {"images_converted": 1})
    np.testing.assert_array_equal(decode(encoded), PIL.Image.open(folder / f"a.{ending}").convert("RGB"))


def test_sixteen_bits_keep_the_high_byte(folder):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 70
    PIL.Image.fromarray(values).save(folder / "a.png")
    encoded, stored, counts = load(folder, "a.png")
    assert (stored, counts) == ("png", {"images_converted": 1})
    np.testing.assert_array_equal(decode(encoded)[..., 0], values >> 8)


def save_with_orientation(path, orientation):
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    picture().save(path, exif=exif, quality=95)


def test_exif_rotation_counts_where_the_annotated_size_says_so(folder):
    save_with_orientation(folder / "a.jpg", 6)
    encoded, stored, counts = load(folder, height=WIDTH, width=HEIGHT)
    assert (stored, counts) == ("png", {"images_turned": 1})
    np.testing.assert_array_equal(decode(encoded), np.rot90(PIL.Image.open(folder / "a.jpg"), -1))


def test_exif_rotation_is_ignored_where_the_size_agrees_without(folder):
    save_with_orientation(folder / "a.jpg", 6)
    assert load(folder) == ((folder / "a.jpg").read_bytes(), "jpeg", {"exif_ignored": 1})


def truncated(path):
    stream = io.BytesIO()
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) * 3 // 4])


def damaged_png(path):
    picture().save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[-40] ^= 0xFF
    path.write_bytes(content)


BROKEN = [
    ("image_missing", lambda path: None),
    ("image_unreadable", lambda path: path.write_bytes(b"")),
    ("image_unreadable", lambda path: path.write_text("<html>404</html>")),
    ("image_unreadable", lambda path: path.mkdir()),
    ("image_unreadable", truncated),
    ("image_unreadable", damaged_png),
    ("image_size_differs", lambda path: picture(height=WIDTH, width=HEIGHT).save(path)),
    ("image_size_differs", lambda path: picture(height=HEIGHT - 1).save(path)),
    ("image_too_large", lambda path: picture(height=101, width=100).save(path)),
    ("image_mode", lambda path: picture("F").save(path, "TIFF")),
]


@pytest.mark.parametrize("reason, make", BROKEN)
def test_broken_images_are_rejected(folder, reason, make):
    make(folder / "a.jpg")
    with pytest.raises(Rejected) as error:
        load(folder)
    assert error.value.reason == reason
    assert reason in IMAGE_REASONS


@pytest.mark.parametrize("through", ["name", "link", "folder"])
def test_no_way_out_of_the_image_folder(folder, through):
    outside = folder.parent / "images2"
    outside.mkdir()
    picture().save(outside / "a.jpg")
    if through == "link":
        (folder / "a.jpg").symlink_to(outside / "a.jpg")
    if through == "folder":
        (folder / "sub").symlink_to(outside)
    name = {"name": "../images2/a.jpg", "link": "a.jpg", "folder": "sub/a.jpg"}[through]
    with pytest.raises(Rejected) as error:
        load(folder, name)
    assert error.value.reason == "image_outside_root"


def labels():
    return np.random.RandomState(0).choice(np.uint8([0, 3, 7, 255]), (HEIGHT, WIDTH))


def load_stuff(folder, count=8):
    tally = Tally()
    encoded, largest = images.load_stuff(os.path.realpath(folder), "a.jpg", HEIGHT, WIDTH, count, tally)
    return encoded, largest, dict(tally.counters)


def test_stuff_is_stored_as_it_is(folder):
    PIL.Image.fromarray(labels()).save(folder / "a.png")
    assert load_stuff(folder) == ((folder / "a.png").read_bytes(), 7, {})
    assert load_stuff(folder, None)[1] == 7


def test_a_palette_is_taken_off_the_labels(folder):
    palette = PIL.Image.fromarray(labels(), "P")
    palette.putpalette(np.random.RandomState(1).randint(0, 255, 768, np.uint8).tobytes())
    palette.save(folder / "a.png")
    encoded, largest, counts = load_stuff(folder)
    assert (largest, counts) == (7, {"stuff_converted": 1})
    np.testing.assert_array_equal(tf.io.decode_png(encoded, channels=1)[..., 0], labels())


def test_a_map_without_labels(folder):
    PIL.Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "a.png")
    assert load_stuff(folder)[1] == -1


def sixteen_shades(path):
    """Four bits a pixel, which decoders scale up: label 3 would be read as 51. Pillow writes no such file."""
    picture("L").save(path)
    content = bytearray(path.read_bytes())
    content[images.PNG_BIT_DEPTH] = 4
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


BROKEN_STUFF = [
    ("stuff_missing", lambda path: None),
    ("stuff_unreadable", lambda path: path.write_bytes(b"\x89PNG\r\n")),
    ("stuff_unreadable", lambda path: picture().save(path)),
    ("stuff_unreadable", lambda path: picture("L").save(path, "JPEG")),
    ("stuff_unreadable", sixteen_shades),
    ("stuff_size_differs", lambda path: picture("L", height=WIDTH).save(path)),
    ("stuff_label_unknown", lambda path: PIL.Image.new("L", (WIDTH, HEIGHT), 8).save(path)),
]


@pytest.mark.parametrize("reason, make", BROKEN_STUFF)
def test_broken_stuff_maps_are_rejected(folder, reason, make):
    make(folder / "a.png")
    with pytest.raises(Rejected) as error:
        load_stuff(folder)
    assert error.value.reason == reason
