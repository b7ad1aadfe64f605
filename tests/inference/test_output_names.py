"""Output file names: unique and valid on any file system, for any image and class names."""

import os
import sys
from pathlib import Path

import pytest

from htc_tf.errors import UserError
from htc_tf.inference import output_names
from htc_tf.inference.inputs import Url
from htc_tf.inference.output_names import cut_out_name, drawing_names, refuse_replacing


def test_equal_names_get_numbers():
    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("c/x_2.jpg"), Path("d/y.tif")]
    assert drawing_names(paths) == ["x.png", "x_2.png", "x_2_2.png", "y.png"]
    assert drawing_names(paths, [".png", ".mp4", ".jpg", ".png"]) == ["x.png", "x_2.mp4", "x_2_2.jpg", "y.png"]


def test_names_that_a_mac_takes_for_one_get_numbers():
    """Its file systems ignore case, and whether a letter and its accent are one character or two."""
    paths = [Path("a/x.jpg"), Path("b/X.jpg"), Path("c/x_2.jpg"), Path("a/\u00e9.jpg"), Path("b/e\u0301.jpg")]
    assert drawing_names(paths) == ["x.png", "X_2.png", "x_2_2.png", "\u00e9.png", "e\u0301_2.png"]


def test_many_equal_names_take_linear_time(monkeypatch):
    shorten, calls = output_names.shorten, []
    monkeypatch.setattr(output_names, "shorten", lambda *stem: calls.append(stem) or shorten(*stem))
    names = drawing_names([Path(f"{folder}/image.jpg") for folder in range(100)])
    assert names[0] == "image.png" and names[99] == "image_100.png" and len(set(names)) == 100
    assert len(calls) < 300


def test_names_of_urls_are_unique():
    """Labels name the image by this name alone."""
    paths = [Path("in/a.jpg"), *map(Url, ("https://x/1/a.jpg", "https://x/2/a.jpg", "https://x/b", "https://y/b"))]
    assert output_names.relative_names(paths) == ["a.jpg", "a_2.jpg", "a_3.jpg", "b", "b_2"]
    assert len(set(output_names.relative_names([Url(f"https://x/{n}/a.jpg") for n in range(20000)]))) == 20000


def test_long_numbers_are_no_image_ids():
    """COCO's ids have 64 bits, and Python reads no number of more than 4,300 digits."""
    names = ["7.jpg", "20231129151007123456.jpg", f"{'9' * 5000}.jpg", "123456789012345678.jpg"]
    assert output_names.image_ids([Path(name) for name in names]) == [7, 1, 2, 123456789012345678]


NO_UTF_8 = pytest.param(
    "\udcff" * 250,
    marks=pytest.mark.skipif(sys.platform == "darwin", reason="a Mac's file systems refuse names that are not UTF-8"),
)


@pytest.mark.parametrize("stem", ["w" * 253, "\u4e2d" * 84, NO_UTF_8, ".." * 120])
def test_long_names_are_cut_and_still_differ(tmp_path, stem):
    names = drawing_names([Path(folder) / f"{stem}.x" for folder in "abc"])
    names += [cut_out_name(stem, 7, "person")]
    assert len(set(names)) == 4
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert names[-1].endswith("_07_person.png")


def test_cut_outs_of_long_names_differ():
    """The number of the second drawing is at the end of its name, where a longer name would be cut off."""
    stems = [Path(name).stem for name in drawing_names([Path("a") / f"{'w' * 253}.x", Path("b") / f"{'w' * 253}.x"])]
    for class_name in ("person", "\u4e2d" * 40):
        names = [cut_out_name(stem, number, class_name) for stem in stems for number in (7, 1234)]
        assert len(set(names)) == 4 and max(len(os.fsencode(name)) for name in names) <= 255


@pytest.mark.parametrize("name", ["../../x", "a/b\\c", "w" * 10_000, "\u4e2d" * 10_000, "\ud800", "\x00", "con:", "\n"])
def test_a_class_of_any_name_is_a_file(tmp_path, name):
    made = cut_out_name("image", 1, name)
    (tmp_path / made).write_bytes(b"")
    assert os.listdir(tmp_path) == [made] and made.startswith("image_01_") and made.endswith(".png")


def test_a_drawing_that_would_replace_an_input_is_refused(tmp_path):
    (tmp_path / "x.png").touch()
    (tmp_path / "deep").mkdir()
    os.link(tmp_path / "x.png", tmp_path / "deep" / "y.png")
    (tmp_path / "deep" / "z.png").symlink_to("../x.png")
    for path, name in (("x.png", "x.png"), ("deep/y.png", "x.png"), ("x.png", "deep/y.png"), ("deep/z.png", "x.png")):
        with pytest.raises(UserError, match=f"{name} would replace"):
            refuse_replacing([tmp_path / path], [name], tmp_path)
    refuse_replacing([tmp_path / "x.png"], ["y.png"], tmp_path)


@pytest.mark.parametrize("name", ["loop.png", "nul\0.png", "w" * 300, "nowhere.png"])
def test_an_input_that_cannot_be_looked_up_replaces_nothing(tmp_path, name):
    (tmp_path / "loop.png").symlink_to("loop.png")
    refuse_replacing([tmp_path / name], ["x.png", name], tmp_path)
