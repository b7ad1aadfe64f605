"""Names of images become paths below the image folder, or are refused."""

import os
from pathlib import Path

import pytest

from pipelines.checks import Rejected
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


def test_an_image_by_its_stem(folder):
    assert image_files.find_by_stem("a", [folder / "none", folder / "images"], folder) == "images/a.jpg"
    assert image_files.find_by_stem("c", [folder / "images", folder], folder) is None
    with pytest.raises(Rejected, match="outside"):
        image_files.find_by_stem("outside", [folder.parent], folder)
