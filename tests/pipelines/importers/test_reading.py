"""Folders of any sender are searched: what is not read is named."""

import os

import pytest

from pipelines.importers import labelme, reading
from tests.pipelines.importers.labelme_files import add, shape


def test_hidden_files_are_not_searched(tmp_path):
    for name in ("a.json", ".a.json", "._a.json", ".git/b.json", "__MACOSX/a.json", "c.d/e.JSON", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths, problems = reading.list_files(tmp_path, (".json",))
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["a.json", "c.d/e.JSON"]
    assert not problems


def test_links_and_pipes(tmp_path):
    (tmp_path / "in").mkdir()
    add(tmp_path / "other", "z", shape())
    os.symlink(tmp_path / "other/z.json", tmp_path / "in/a.json")
    os.symlink(tmp_path / "other", tmp_path / "in/folder")
    os.symlink(tmp_path / "none", tmp_path / "in/b.json")
    os.mkfifo(tmp_path / "in/c.json")
    paths, problems = reading.list_files(tmp_path / "in", (".json",))
    assert [path.name for path in paths] == ["a.json"]
    assert sorted(problems) == [
        f"{tmp_path}/in/b.json: it is neither a file nor a link to one",
        f"{tmp_path}/in/c.json: it is neither a file nor a link to one",
        f"{tmp_path}/in/folder: a link to a folder is not searched: give that folder itself",
    ]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    for name in ("a", "b"):
        add(tmp_path / name, name, shape())
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path) == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    paths, problems = reading.list_files(tmp_path, (".json",))
    assert [path.name for path in paths] == ["a.json"]
    assert list(problems) == [f"{tmp_path}/b: Permission denied: no file in it is read"]


def test_names_that_are_not_unicode(tmp_path):
    add(tmp_path, "a", shape())
    add(tmp_path, "b", shape(), imagePath="\udce9.png")
    try:
        os.rename(tmp_path / "b.png", os.fsencode(tmp_path) + b"/\xe9.png")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    entries, problems = reading.read_all(labelme, [tmp_path / "a.json", tmp_path / "b.json"], tmp_path)
    assert list(entries) == ["a.png"]
    words = "the name of the image \\udce9.png is not Unicode: rename the file"
    assert problems == [f"{tmp_path}/b.json: {words}", f"{tmp_path}/\udce9.png: {words}"]
