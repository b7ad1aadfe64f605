"""Image file names: other systems' notations are understood if exactly one file matches, and never leave the folder."""

import unicodedata

import pytest

from pipelines import file_names
from pipelines.checks import Counters, Rejected


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "images"
    for name in ("a/1.jpg", "a/2.JPG", "a b.png", "é.jpg", "two/Same.jpg", "two/same.jpg", "50%.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder.resolve()


def find(root, file_name, **entry):
    counters = Counters()
    found = file_names.file_name({"file_name": file_name, **entry}, str(root), counters)
    return found, dict(counters.counts)


@pytest.mark.parametrize("name", ["a/1.jpg", "./a/1.jpg", "50%.jpg", "two/same.jpg", "nowhere.jpg", "two/SAME.jpg"])
def test_correct_and_ambiguous_names_stay(root, name):
    assert find(root, name) == (name, {})


@pytest.mark.parametrize(
    "name, meant",
    [
        ("a\\1.jpg", "a/1.jpg"),
        (".\\a\\1.jpg", "a/1.jpg"),
        ("A/1.JPG", "a/1.jpg"),
        ("a/2.jpg", "a/2.JPG"),
        ("a%20b.png", "a b.png"),
        ("images/a/1.jpg", "a/1.jpg"),
        ("data\\images\\a\\1.JPG", "a/1.jpg"),
        (unicodedata.normalize("NFD", "é.jpg"), "é.jpg"),
    ],
)
def test_other_spellings(root, name, meant):
    if (root / name).exists():
        pytest.skip("the file system, as a Mac's, takes the two spellings for the same file")
    assert find(root, name) == (meant, {"file_names_corrected": 1})


def test_absolute_names_inside_the_folder(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    for folder in (root, tmp_path / "link"):
        assert find(root, str(folder / "a" / "1.jpg")) == ("a/1.jpg", {"file_names_relative": 1})


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a\\..\\..\\secret.jpg", "/etc/passwd", "C:\\data\\1.jpg", "C:/1.jpg"]
)
def test_names_outside_the_folder(root, name):
    with pytest.raises(Rejected, match="image_outside_root"):
        find(root, name)


def test_percent_encoding_cannot_leave_the_folder(root):
    (root.parent / "secret.jpg").touch()
    assert find(root, "%2e%2e/secret.jpg") == ("%2e%2e/secret.jpg", {})
    assert find(root, "a/%2e%2e/%2e%2e/secret.jpg")[1] == {}


@pytest.mark.parametrize("name", [None, 5, "", " ", ".", "a\0b", "\ud800.jpg", "x" * 5000])
def test_values_that_are_not_names(root, name):
    with pytest.raises(Rejected, match="image_malformed") as error:
        find(root, name)
    assert len(error.value.detail) < 200
    error.value.detail.encode()


def test_the_key_with_the_name_is_named(root):
    with pytest.raises(Rejected, match="rename 'filename'"):
        file_names.file_name({"id": 1, "filename": "a/1.jpg"}, str(root), Counters())


def test_urls_of_lvis(root):
    url = "http://images.cocodataset.org/train2017/1.jpg"
    assert find(root, None, coco_url=url) == ("1.jpg", {"file_names_from_url": 1})
    (root / "train2017").mkdir()
    assert find(root, None, coco_url=url)[0] == "train2017/1.jpg"


def test_urls_of_lvis_beside_one_of_its_two_folders(tmp_path):
    """LVIS's validation set has images of train2017 and of val2017."""
    for name in ("train2017", "val2017"):
        (tmp_path / name).mkdir()
    root = tmp_path / "val2017"
    for name, found in (("val2017", "1.jpg"), ("train2017", "train2017/1.jpg"), ("test2017", "1.jpg")):
        assert find(root, None, coco_url=f"http://images.cocodataset.org/{name}/1.jpg")[0] == found
    assert file_names.hint(str(root), "train2017/1.jpg") == "; --images has no folder train2017; give the folder above"


def test_a_url_that_is_none(root):
    with pytest.raises(Rejected, match=r"coco_url http://\[/1.jpg is no URL"):
        find(root, None, coco_url="http://[/1.jpg")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("upload/7/50%.jpg", "50%.jpg is directly in --images"),
        ("a/1.png", "there is 1.jpg"),
        ("b/3.jpg", "no folder b"),
        ("two/SAME.jpg", "there is "),
        ("a%00b/c.jpg", "no folder a"),
        ("3.jpg", ""),
    ],
)
def test_hints(root, name, expected):
    hint = file_names.hint(str(root), name)
    assert expected in hint and bool(expected) == bool(hint)
