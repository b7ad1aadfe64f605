"""Inputs of `python -m htc_tf.predict`: URLs, --max_pixels and --track, with a detector that needs no network."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

import htc_tf.predict
from htc_tf.inference import urls
from tests.data.encoded_images import blank_png
from tests.inference.test_tracking import CATEGORIES, Detections, Detector, NearestCenter, drawn


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Returns call(flag, ...), which runs the command in this process and returns its exit status and results."""

    def run(*flags, lines="", loads=True):
        command = ["predict", "--checkpoint", "RUN", "--output", str(tmp_path / "out"), *map(str, flags)]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        model = SimpleNamespace(detector=Detector(), categories=CATEGORIES)
        monkeypatch.setattr(htc_tf.predict, "load", (lambda *arguments: model) if loads else None)
        try:
            htc_tf.predict.main()
        except SystemExit as ended:
            return ended.code, None
        return 0, json.loads((tmp_path / "out" / "predictions.json").read_text())

    return run


def test_urls_beside_paths(call, monkeypatch, tmp_path, capsys):
    stream = io.BytesIO()
    Image.fromarray(drawn(0)).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    asked = []

    def fetch(url):
        asked.append(url)
        urls.check(url)
        if url.endswith("missing.png"):
            raise urls.ImageError("HTTP 404 Not Found")
        return stream.getvalue()

    monkeypatch.setattr(urls, "fetch", fetch)
    lines = "https://host/folder/b%20c.png?size=2\nhttps://host/missing.png\nhttp://host/x.png\n"
    status, entries = call("--input", tmp_path / "a.png", "-", lines=lines)
    assert status == 0 and asked == lines.split("\n")[:3]
    assert [entry["file_name"] for entry in entries] == ["a.png"] * 4 + ["b c.png"] * 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b c.png", "predictions.json"}
    told = capsys.readouterr().err
    assert "skipped https://host/missing.png: HTTP 404 Not Found\n" in told
    assert "skipped http://host/x.png: a URL by http, and only https is read" in told


def test_other_urls_are_refused_before_the_model_is_loaded(call, capsys):
    assert call("--input", "http://host/x.png", loads=False) == (2, None)
    assert "--input http://host/x.png: of URLs only https is read" in capsys.readouterr().err


def test_max_pixels(call, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(blank_png(300, 200))
    assert call("--input", tmp_path / "a.png", "--max_pixels", 59_999) == (2, None)
    assert "a.png: 300 x 200 pixels, more than --max_pixels 59999: raise it" in capsys.readouterr().err
    assert call("--input", tmp_path / "a.png", "--max_pixels", 60_000) == (0, [])


def test_an_image_too_large_for_its_drawing_is_skipped(call, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(blank_png(65_501, 1))
    (tmp_path / "b.png").write_bytes(blank_png(30, 20))
    assert call("--input", tmp_path / "a.png", tmp_path / "b.png", "--format", "jpg")[0] == 0
    assert "a.png: 65501 x 1 pixels, and a drawing as .jpg has at most 65500 on a side" in capsys.readouterr().err


def test_track(call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=Detections, ByteTrack=NearestCenter))
    first, *rest = (Image.fromarray(drawn(frame)) for frame in range(3))
    first.save(tmp_path / "a.webp", save_all=True, append_images=rest, duration=40, lossless=True)
    first.save(tmp_path / "b.png")
    status, entries = call("--input", tmp_path / "a.webp", tmp_path / "b.png", "--track")
    assert status == 0 and len(entries) == 16
    assert all(("track_id" in entry) == ("frame" in entry) for entry in entries)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--overlap", 0.3], "--overlap: only with --tile; leave it out"),
        (["--tolerance", 0], "--tolerance: only with --save; leave it out"),
        (["--every", 2], "--every and --track are for videos, and no input is one"),
        (["--track"], "--every and --track are for videos, and no input is one"),
    ],
)
def test_flags_that_say_nothing_are_refused_before_the_model_is_loaded(call, tmp_path, capsys, flags, message):
    (tmp_path / "a.png").write_bytes(blank_png(30, 20))
    assert call("--input", tmp_path / "a.png", *flags, loads=False) == (2, None)
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--cutouts"], ["--semantic"], ["--save", "coco"]])
def test_flags_about_images_are_refused_without_an_image(call, tmp_path, capsys, flags):
    first, second = (Image.fromarray(drawn(frame)) for frame in range(2))
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second])
    assert call("--input", tmp_path / "a.webp", *flags, loads=False) == (2, None)
    assert "--cutouts, --semantic and --save are for images, and no input is one" in capsys.readouterr().err


def test_a_missing_tracker_is_one_line_before_the_model_is_loaded(call, monkeypatch, tmp_path, capsys):
    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(htc_tf.predict, "check_decoder", lambda paths: None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    assert call("--input", tmp_path / "a.mp4", "--track", loads=False) == (2, None)
    line = "error: --track needs supervision, which is not installed: pip install "
    assert capsys.readouterr().err.startswith(line)
