"""Inputs: file names, folders and globs become paths; files, PIL images and arrays become upright pixels."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from htc_tf.data.preprocessing import decode_rgb
from htc_tf.errors import UserError
from htc_tf.inference.inputs import Unreadable, as_image, find_inputs, read_image


@pytest.fixture
def folder(tmp_path):
    """b.png, a[1].jpg, film.mp4, notes.txt and deep/c.webp, all empty."""
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "a[1].jpg", "film.mp4", "notes.txt", "deep/c.webp"):
        (tmp_path / name).touch()
    return tmp_path


def test_folders_globs_and_files(folder):
    def find(*names):
        return [path.relative_to(folder).as_posix() for path in find_inputs([f"{folder}/{name}" for name in names])]

    assert find(".") == ["a[1].jpg", "b.png", "film.mp4"]  # neither deeper files nor files that are no images
    assert find("**/*.*") == ["a[1].jpg", "b.png", "deep/c.webp", "film.mp4", "notes.txt"]
    assert find("a[1].jpg") == ["a[1].jpg"]  # an existing file wins over a pattern
    assert find("b.png", "*.jpg", "b.png") == ["b.png", "a[1].jpg"]  # each once, as named


def test_a_glob_enters_no_folder_again_through_links(folder):
    (folder / "again").symlink_to(folder)
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "deep" / "itself").symlink_to("itself")
    (folder / "deep" / ".hidden").mkdir()
    (folder / "other").symlink_to(folder / "deep")
    for name in ("deep/d.png", "deep/.hidden/e.png"):
        (folder / name).touch()

    def find(name):
        return [path.relative_to(folder).as_posix() for path in find_inputs([f"{folder}/{name}"])]

    assert find("**/*.png") == ["b.png", "deep/d.png", "other/d.png"]
    assert find("**/deep/**/*.webp") == ["deep/c.webp"]
    assert find("deep/**/d.png") == ["deep/d.png"]


def test_a_glob_is_relative_to_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list(map(str, find_inputs(["**/*.webp", "**/b.png"]))) == ["deep/c.webp", "b.png"]


def test_images_of_other_formats_are_not_passed_over(tmp_path):
    for name in ("a.HEIC", "b.jfif", "c.avif", "d.mpo", "e.json", "f"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    found = find_inputs([str(tmp_path)])
    assert [path.name for path in found] == ["a.HEIC", "b.jfif", "c.avif", "d.mpo"]
    with pytest.raises(Unreadable, match="HEIC"):
        read_image(found[0])


def test_a_list_on_standard_input():
    lines = ["x.jpg\n", "\n", " y y.png \n", "x.jpg\n"]
    assert list(map(str, find_inputs(["-"], lines))) == ["x.jpg", "y y.png"]
    with pytest.raises(UserError, match="--input -"):
        find_inputs(["-"], ["\n"])


def test_names_without_a_match_are_refused(folder):
    for name in ("nowhere.jpg", "*.gif", "deep/*.png"):
        with pytest.raises(UserError, match="no image there"):
            find_inputs([f"{folder}/{name}"])


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 255, (24, 40, 3), np.uint8)


def test_types_of_image_inputs(pixels, tmp_path):
    np.testing.assert_array_equal(as_image(pixels), pixels)
    np.testing.assert_array_equal(as_image(Image.fromarray(pixels)), pixels)
    for name in ("x.png", "x.bmp", "x.webp", "x.tiff"):
        Image.fromarray(pixels).save(tmp_path / name, **({"lossless": True} if name == "x.webp" else {}))
        np.testing.assert_array_equal(as_image(tmp_path / name), pixels)
        np.testing.assert_array_equal(as_image(str(tmp_path / name)), pixels)
    assert as_image(Image.fromarray(pixels).convert("L")).shape == (24, 40, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 40, "progressive": True}, {"quality": 95, "subsampling": 0}])
def test_a_jpeg_by_its_path_has_the_pixels_of_the_pil_image_and_of_training(pixels, tmp_path, mode, options):
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC).convert(mode).save(path, **options)
    np.testing.assert_array_equal(as_image(path), as_image(Image.open(path)))
    if mode != "CMYK":  # which the preparation stores as PNG
        np.testing.assert_array_equal(as_image(path), decode_rgb(path.read_bytes()))


def test_sixteen_bits_are_read_as_the_preparation_reads_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, (24, 40)).astype(np.uint16)
    for name in ("x.png", "x.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        for found in (as_image(tmp_path / name), as_image(Image.open(tmp_path / name))):
            np.testing.assert_array_equal(found[..., 1], values >> 8)
    Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "float.tiff")
    for wrong in (tmp_path / "float.tiff", Image.open(tmp_path / "float.tiff")):
        with pytest.raises(UserError, match="the value of white is unknown"):
            as_image(wrong)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff"])
def test_the_exif_orientation_is_applied(tmp_path, ending):
    rows, columns = np.mgrid[:24, :40].astype(np.uint8)
    slope = np.dstack([6 * columns, 6 * columns, 10 * rows])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8  # a quarter turn to the left
    Image.fromarray(slope).save(tmp_path / f"x.{ending}", exif=exif)
    for turned in (read_image(tmp_path / f"x.{ending}"), as_image(Image.open(tmp_path / f"x.{ending}"))):
        assert turned.shape == (40, 24, 3)
        assert np.abs(turned.astype(int) - np.rot90(slope, 1)).mean() < 6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"text", "a text file"),
        (b"<!doctype html><html></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG, but damaged"),
        (None, "is a folder"),
    ],
)
def test_the_error_names_the_content_of_files_that_are_no_images(tmp_path, content, words):
    path = tmp_path / "x.jpg"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(Unreadable, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "BytesIO" not in str(caught.value)


def test_unreadable_files_are_refused_with_a_reason(pixels, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "x.txt").write_text("text")
    for name in ("x.png", "x.txt", "nowhere.jpg"):
        with pytest.raises(Unreadable) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and caught.value.reason and "{{" not in caught.value.reason
    assert caught.value.reason == "No such file or directory"
