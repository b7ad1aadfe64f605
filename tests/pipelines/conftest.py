"""Fixtures of the data preparation's tests."""

import pytest

from tests.pipelines import tiny_coco


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
