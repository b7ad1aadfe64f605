"""`htc_tf.load` on a tiny trained run, and the inputs and outputs of `python -m htc_tf.predict`."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

import htc_tf
import htc_tf.predict
from htc_tf.errors import UserError
from htc_tf.inference.results import ImageResult


@pytest.fixture
def call(monkeypatch):
    """Returns call("--checkpoint", ...), which runs the command in this process and returns its exit status."""

    def run(*flags, lines=""):
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, flags)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        try:
            htc_tf.predict.main()
        except SystemExit as ended:
            return ended.code
        return 0

    return run


@pytest.fixture
def scene(tiny_data):
    return tiny_data.images / f"{1:012d}.jpg"


def test_three_lines(tiny_run, scene, tmp_path, eagerly):
    model = htc_tf.load(str(tiny_run.folder))
    detections = model(scene)
    detections.draw(tmp_path / "out.jpg", threshold=0.05)

    assert max(Image.open(tmp_path / "out.jpg").size) == 640
    assert model.class_names[0] == "circle" and len(model.class_names) == 8
    assert len(detections) > 3 and set(detections.class_names) <= set(model.class_names)
    assert detections.masks.shape == (len(detections), *detections.image.shape[:2])
    inside = np.zeros(detections.masks.shape, bool)
    for box, region in zip(detections.boxes.round().astype(int), inside, strict=True):
        region[max(box[0] - 1, 0) : box[2] + 1, max(box[1] - 1, 0) : box[3] + 1] = True
    assert not (detections.masks & ~inside).any()
    # A list of inputs of several types; results keep its order.
    image = Image.open(scene)
    same, turned = model([np.asarray(detections.image), image.rotate(90, expand=True)])
    np.testing.assert_array_equal(same.boxes, detections.boxes)
    assert turned.image.shape[:2] == image.size
    assert model.semantic(scene).shape == detections.image.shape[:2]
    with pytest.raises(UserError, match=r"overlap = 0\.5 is that of tiles: give tile, too"):
        model(scene, overlap=0.5)


def test_models_that_cannot_be_loaded(tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*--workdir"):
        htc_tf.load(tmp_path / "nowhere")
    (tmp_path / "export" / "1").mkdir(parents=True)
    (tmp_path / "export" / "1" / "saved_model.pb").touch()
    with pytest.raises(UserError, match="configuration is fixed"):
        htc_tf.load(tmp_path / "export", gin_param=["NUM_STAGES=1"])
    with pytest.raises(UserError, match="configuration is fixed"):
        htc_tf.load(tmp_path / "export", trust_config=True)
    with pytest.raises(UserError, match="NUMBER_OF_STAGES"):
        htc_tf.load(tiny_run.folder, gin_param=["NUMBER_OF_STAGES=1"])
    with pytest.raises(AttributeError):
        htc_tf.nothing  # noqa: B018


def test_everything_at_once(call, tiny_run, scene, tmp_path, eagerly, capsys):
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    image = Image.open(scene)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(images / "turned.jpg", exif=exif)
    frames = [image.resize((80, 60)), image.rotate(90).resize((80, 60)), image.rotate(180).resize((80, 60))]
    frames[0].save(images / "film.gif", save_all=True, append_images=frames[1:], duration=40)
    (images / "text.png").write_text("no image")
    flags = ["--checkpoint", tiny_run.folder, "--output", output, "--format", "jpg", "--threshold", 0.05]
    flags += ["--cutouts", "--semantic", "--every", 2, "--input", f"{images}/*.*", "-"]
    assert call(*flags, lines=f"{scene}\n{images}/nowhere.jpg\n") == 0

    assert Image.open(output / "turned.jpg").size == (round(640 * image.height / image.width), 640)
    assert Image.open(output / f"{scene.stem}.jpg").size[0] == 640
    film = Image.open(output / "film.webp")
    assert film.size == (640, 480) and film.n_frames == 2
    semantic = Image.open(output / "semantic" / "turned.jpg")
    assert semantic.width == Image.open(output / "turned.jpg").width and semantic.height > 640  # with its legend

    entries = json.loads((output / "predictions.json").read_text())
    for entry in entries:  # paths relative to the folder that the inputs share
        entry["file_name"] = entry["file_name"].rpartition("/")[2]
    ids = {(entry["file_name"], entry["image_id"], entry.get("frame")) for entry in entries}
    # The scene's name gives it id 1; so the second file, text.png, gets 5, and the film's frames the next ids.
    assert ids == {("film.gif", 6, 0), ("film.gif", 7, 2), ("turned.jpg", 2, None), (scene.name, 1, None)}
    turned = [entry for entry in entries if entry["file_name"] == "turned.jpg"]
    assert turned[0]["segmentation"]["size"] == [image.width, image.height]
    wanted = sum(
        entry["score"] >= 0.05 and coco_mask.area(entry["segmentation"]) > 0
        for entry in entries
        if "frame" not in entry
    )
    cut = list((output / "cutouts").iterdir())
    assert len(cut) == wanted > 0 and all(Image.open(path).mode == "RGBA" for path in cut)

    printed = capsys.readouterr()
    skipped = [line for line in printed.err.splitlines() if line.startswith("skipped ")]
    assert [line.rpartition("/")[2].split(":")[0] for line in skipped] == ["text.png", "nowhere.jpg"]
    assert "3 images" in printed.out and "2 skipped" in printed.out


class FailingDetector:
    """A detector that fails on black images."""

    def detect_image(self, image):
        if not image.any():
            raise tf.errors.InvalidArgumentError(
                None, None, "Graph execution error:\n\nindices[0] = 0 is not in [0, 0)"
            )
        return ImageResult(np.float32([[1, 1, 9, 9]]), np.float32([0.9]), np.int32([0]), None)


def test_failed_images_do_not_affect_their_neighbors(call, monkeypatch, tmp_path, capsys):
    """Holds for the images of a folder and for the frames of an animation."""
    folder, output = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    white, black = (Image.new("RGB", (20, 20), color) for color in ("white", "black"))
    for name, image in (("a", white), ("b", black), ("c", white)):
        image.save(folder / f"{name}.png")
    other = Image.new("RGB", (20, 20), "red")
    white.save(folder / "film.gif", save_all=True, append_images=[black, other, black], duration=40, optimize=False)
    model = SimpleNamespace(detector=FailingDetector(), categories=[{"id": 1, "name": "cat"}])
    monkeypatch.setattr(htc_tf.predict, "load", lambda *source: model)
    assert call("--checkpoint", "EXPORT", "--output", output, "--input", folder) == 0
    printed = capsys.readouterr()
    reason = "the model failed: indices[0] = 0 is not in [0, 0)"
    assert f"skipped {folder / 'b.png'}: {reason}" in printed.err.splitlines()
    assert f"skipped {folder / 'film.gif'}: 2 frames failed, the first is frame 1: {reason}" in printed.err.splitlines()
    assert "2 images and predictions.json" in printed.out and "2 skipped" in printed.out
    entries = json.loads((output / "predictions.json").read_text())
    assert [(entry["file_name"], entry.get("frame")) for entry in entries] == [
        ("a.png", None),
        ("c.png", None),
        ("film.gif", 0),
        ("film.gif", 2),
    ]
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "c.png", "film.webp", "predictions.json"]
    (folder / "a.png").unlink()
    (folder / "c.png").unlink()
    (folder / "film.gif").unlink()
    assert call("--checkpoint", "EXPORT", "--output", output, "--input", folder) == 2  # b.png is the only input
    assert "every input was skipped" in capsys.readouterr().err


def test_files_skipped_before_an_interruption_are_named(call, monkeypatch, tmp_path, capsys):
    def interrupt(image):
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_text("no image")
    Image.new("RGB", (20, 16)).save(tmp_path / "b.png")
    model = SimpleNamespace(detector=SimpleNamespace(detect_image=interrupt), categories=[{"id": 1, "name": "cat"}])
    monkeypatch.setattr(htc_tf.predict, "load", lambda *source: model)
    assert call("--checkpoint", "EXPORT", "--output", tmp_path / "out", "--input", tmp_path) == 130
    assert f"skipped {tmp_path / 'a.png'}: " in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


class SquareDetector:
    """A detector that finds a square, an object without a pixel, and an unsure one."""

    def detect_image(self, image):
        mask = np.zeros(image.shape[:2], np.uint8, order="F")
        mask[2:8, 3:9] = 1
        masks = [{**run, "counts": run["counts"].decode()} for run in map(coco_mask.encode, (mask, 0 * mask, mask))]
        return ImageResult(np.float32([[2, 3, 8, 9]] * 3), np.float32([0.9, 0.8, 0.2]), np.int32([0, 0, 0]), masks)


def test_labels_for_annotation_tools(call, monkeypatch, tmp_path, capsys):
    folder, output = tmp_path / "images", tmp_path / "out"
    for name in ("a/x.png", "b/x.jpg", "b/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16)).save(folder / name)
    model = SimpleNamespace(detector=SquareDetector(), categories=[{"id": 4, "name": "cat"}])
    monkeypatch.setattr(htc_tf.predict, "load", lambda *source: model)
    flags = ["--checkpoint", "EXPORT", "--output", output, "--input", f"{folder}/*/*"]
    assert call(*flags, "--save", "coco", "yolo", "--save", "labelme", "cvat", "labelstudio", "--tolerance", 0) == 0
    lines = sorted(line for line in capsys.readouterr().err.splitlines() if line.startswith("left out"))
    paths = [folder / name for name in ("a/x.png", "b/x.jpg", "b/x.png")]
    assert [line.partition(" of ")[2].partition(": 1 object ")[0] for line in lines[:3]] == list(map(str, paths))
    assert len(lines) == 4 and lines[3].startswith(f"left out of {paths[2]}: not saved as yolo: ")
    content = json.loads((output / "coco.json").read_text())
    assert [row["file_name"] for row in content["images"]] == ["a/x.png", "b/x.jpg", "b/x.png"]
    assert [row["bbox"] for row in content["annotations"]] == [[3, 2, 6, 6]] * 3
    assert (output / "yolo" / "labels" / "a" / "x.txt").read_text().startswith("0 0.")
    assert json.loads((output / "labelme" / "b" / "x_2.json").read_text())["imagePath"] == "../../../images/b/x.png"
    assert (output / "cvat.xml").is_file() and (output / "labelstudio.json").is_file()
    assert len(json.loads((output / "predictions.json").read_text())) == 9
    # A label file is not written over an input.
    (output / "x.png").rename(output / "coco.json")
    assert call(*flags, "--save", "coco", "--input", output / "coco.json", "--format", "jpg") == 2
    assert "coco.json would replace" in capsys.readouterr().err
    assert Image.open(output / "coco.json").format == "PNG"
    assert call(*flags, "--save", "pascal") == 2
    assert "invalid choice: 'pascal'" in capsys.readouterr().err


def test_nothing_to_read(call, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(htc_tf.predict, "load", lambda *source: SimpleNamespace(detector=None, categories=[]))
    flags = ["--checkpoint", "RUN", "--output", tmp_path / "out", "--input", "-"]
    assert call(*flags, lines=f"{tmp_path}/nowhere.jpg\n") == 2
    assert "every input was skipped" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert call(*flags, "--every", 0) == 2
    (tmp_path / "file").touch()
    assert call(*flags[:3], tmp_path / "file", *flags[4:], lines=f"{tmp_path}/nowhere.jpg\n") == 2
    assert "cannot be written" in capsys.readouterr().err
