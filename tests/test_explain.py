"""`python -m htc_tf.explain` on a tiny trained run: the page and the refusals."""

import sys

import pytest
from PIL import Image

import htc_tf.explain


@pytest.fixture
def call(monkeypatch):
    """call("--checkpoint", ...): the command in this process. Returns its exit status."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, flags)])
        try:
            htc_tf.explain.main()
        except SystemExit as ended:
            return ended.code
        return 0

    return run


def test_a_page(call, tiny_run, tiny_data, tmp_path, eagerly, capsys):
    scene, page = tiny_data.images / f"{1:012d}.jpg", tmp_path / "new" / "walk.png"
    flags = ["--checkpoint", tiny_run.folder, "--input", scene, "--output", page, "--width", 800, "--objects", 2]
    assert call(*flags, "--threshold", 0.02) == 0
    assert Image.open(page).width == 800 and Image.open(page).height > 1000
    assert "objects" in capsys.readouterr().out
    # One stage of the two that were trained; nothing is that sure.
    smaller = tmp_path / "walk.jpg"
    params = ["--gin_param", "NUM_STAGES=1", "--output", smaller, "--threshold", 0.99]
    assert call(*flags, *params) == 0
    assert Image.open(smaller).height < Image.open(page).height
    assert "0 detected objects" in capsys.readouterr().out


def test_what_is_refused(call, tiny_run, tiny_data, tmp_path, capsys):
    flags = ["--checkpoint", tiny_run.folder, "--input", tmp_path / "none.jpg", "--output", tmp_path / "walk.png"]
    scene = tmp_path / "scene.jpg"
    scene.touch()
    (tmp_path / "page.jpg").hardlink_to(scene)  # the same file by another name, as SCENE.JPG is on a Mac
    for wrong, told in (
        (["--output", tmp_path / "walk.pdf"], "walk.pdf must end in .png"),
        (["--objects", 0], "--objects: 0"),
        (["--width", 10], "--width: 10"),
        (["--checkpoint", tmp_path], "classes.json is missing"),
        ([], "none.jpg"),
        (["--input", scene, "--output", scene.parent / "page.jpg"], "page.jpg would replace the image of --input"),
        (["--input", "HTTPS://here/x.png"], "--input https://here/x.png is a URL: download it and give the file"),
    ):
        assert call(*flags, *wrong) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert told in line
