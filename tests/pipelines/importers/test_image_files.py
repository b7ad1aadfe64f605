"""Names of images become paths below the image folder, or are refused."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pipelines import images
from pipelines.checks import Counters, Rejected
from pipelines.importers import image_files
from tests.pipelines.importers.conversion import add_image


@pytest.fixture
def folder(tmp_path):
    for name in ("in/images/a.jpg", "in/b.jpg", "outside.jpg"):
        add_image(tmp_path / name)
    (tmp_path / "in/labels").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize(
    "name, found",
    [
        ("../images/a.jpg", "images/a.jpg"),
        ("..\\images\\a.jpg", "images/a.jpg"),
        ("../labels/../b.jpg", "b.jpg"),
        ("D:\\elsewhere\\b.jpg", "b.jpg"),
        ("/elsewhere/b.jpg", "b.jpg"),
        ("https://example.com/b.jpg", "b.jpg"),
    ],
)
def test_the_image_is_found(folder, name, found):
    assert image_files.find_image(name, folder / "labels", folder) == found


def test_relative_folders(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert image_files.find_image("../b.jpg", Path("labels"), Path(".")) == "b.jpg"


@pytest.mark.parametrize("name", ["../../outside.jpg", "images/../../../outside.jpg", os.path.abspath(__file__)])
def test_names_that_lead_outside_are_refused(folder, name):
    with pytest.raises(Rejected, match=r"outside of|is missing"):
        image_files.find_image(name, folder / "labels", folder)


@pytest.mark.parametrize("name", [None, 3, "", " ", "no.jpg", "\0.jpg", "\ud800.jpg", "x" * 9999, "../images", ".."])
def test_names_of_no_image(folder, name):
    with pytest.raises(Rejected) as error:
        image_files.find_image(name, folder / "labels", folder)
    assert error.value.reason == "image_missing"


@pytest.mark.parametrize("size", [(10**4000, 40), (40, -(10**4000)), (10**4000, 0)])
def test_impossible_sizes_are_described_briefly(size):
    with pytest.raises(Rejected) as error:
        image_files.check_size(*size)
    assert len(error.value.detail) < 150


@pytest.mark.parametrize("size", [("40", "60"), (40.0, 60.0), ("40.0", 60)])
def test_sizes_are_whole_numbers_in_any_notation(folder, size):
    assert image_files.stated_size(folder / "b.jpg", high=size[0], wide=size[1]) == (40, 60)


@pytest.mark.parametrize("size", [(30, 20), (20, 30), (21, 30), (30, 21), (6000, 4000)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_size_is_refused_where_the_preparation_refuses_it(tmp_path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    expected = ours = None
    try:
        images.load_image(str(tmp_path), "a.jpg", *size, 10**6, "full", "apply", Counters())
    except Rejected as error:
        expected = error.reason, f"the image's {error.detail}"
    try:
        assert image_files.stated_size(tmp_path / "a.jpg", height=size[0], width=size[1]) == size
    except Rejected as error:
        ours = error.reason, error.detail
    assert ours == expected and (expected is None) == (size == (20, 30) or (orientation, size) == (6, (30, 20)))


def test_an_image_that_cannot_be_read_has_no_size(folder):
    (folder / "b.jpg").write_bytes(b"x")
    with pytest.raises(Rejected, match=r"b\.jpg cannot be read"):
        image_files.stated_size(folder / "b.jpg", height=40, width=60)


def test_an_image_by_its_stem(folder):
    assert image_files.find_by_stem("a", [folder / "none", folder / "images"], folder) == "images/a.jpg"
    assert image_files.find_by_stem("c", [folder / "images", folder], folder) is None
    with pytest.raises(Rejected, match="outside"):
        image_files.find_by_stem("outside", [folder.parent], folder)
