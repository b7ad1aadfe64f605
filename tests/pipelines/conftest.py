"""Fixtures of the data preparation's tests."""

import shutil

import pytest

from tests.pipelines import preparation, tiny_coco


@pytest.fixture
def tiny(tmp_path):
    """The folder of a tiny COCO dataset."""
    return tiny_coco.make(tmp_path)


@pytest.fixture
def exact_names(tmp_path_factory):
    """Skips the test where one file answers to names that differ in case or in the Unicode form of accents."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "\u00e9").touch()
    for other in ("\u00c9", "e\u0301"):
        if (folder / other).exists():
            pytest.skip("the file system, as a Mac's, takes other spellings of a name for the same file")


@pytest.fixture
def folder(tiny_data, tmp_path):
    """A changeable copy of the tiny data's images and stuff maps, and its records in six shards."""
    root = tiny_data.annotations.parent.parent
    for name, source in (("images", tiny_data.images), ("stuff", root / "stuffthingmaps" / "train2017")):
        shutil.copytree(source, tmp_path / name)
    shutil.copy(tiny_data.annotations, tmp_path / "instances.json")
    preparation.prepare(tmp_path)
    return tmp_path
