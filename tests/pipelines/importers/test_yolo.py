"""YOLO's labels become objects: boxes, polygons, names and splits of data.yaml; what cannot be used is named."""

import os

import numpy as np
import pytest
import yaml

from pipelines.checks import Rejected
from pipelines.importers import yolo
from tests.pipelines.importers.conversion import add_image, convert, draw, iou, masks, star, write

NAMES = "names: [cat, dog, no]\n"
SQUARE = "1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n"


def add(folder, name, text=SQUARE, split="train"):
    add_image(folder / "images" / split / f"{name}.jpg")
    write(folder / "labels" / split / f"{name}.txt", text)


def read(folder, name="a", split="train"):
    (found,) = yolo.read(folder / "labels" / split / f"{name}.txt", folder)
    return found


def test_a_box_and_a_polygon(tmp_path):
    write(tmp_path / "data.yaml", NAMES)
    add(tmp_path, "a", "0 0.5 0.5 0.2 0.4\r\n\n" + SQUARE)
    found = read(tmp_path)
    assert (found.file_name, found.height, found.width) == ("images/train/a.jpg", 40, 60)
    box, polygon = found.objects
    assert box.label == "cat" and box.segmentation is None
    np.testing.assert_allclose(box.box, [24, 12, 12, 16])
    assert polygon.label == "dog" and polygon.segmentation == [[15, 10, 30, 10, 30, 20, 15, 20]]
    assert not found.problems and found.split is None


def test_key_points_are_no_outlines(tmp_path):
    write(tmp_path / "data.yaml", NAMES + "kpt_shape: [3, 2]\n")
    add(tmp_path, "a", "0 0.5 0.5 0.2 0.4 0.4 0.4 0.5 0.5 0.6 0.6\n0 0.5 0.5 0.2 0.4\n")
    with pytest.raises(Rejected, match="kpt_shape"):
        read(tmp_path)


def test_random_polygons_have_their_masks(tmp_path):
    rng, drawn = np.random.default_rng(0), {}
    write(tmp_path / "in/classes.txt", "cat\ndog\n")
    for number in range(20):
        points = star(rng)
        drawn[f"images/train/{number}.jpg"] = draw([points.ravel().tolist()])
        words = " ".join(f"{value:.6f}" for value in (points / (60, 40)).ravel())
        add(tmp_path / "in", str(number), f"{number % 2} {words}\n")
    found, left_out = convert("yolo", tmp_path / "in", "--val_fraction", "0")
    for name, objects in masks(found["train"]).items():
        ((label, mask),) = objects
        assert label == ("cat", "dog")[int(name.split("/")[2][:-4]) % 2] and iou(mask, drawn[name]) > 0.99
    assert not left_out and len(found["train"]["images"]) == 20


@pytest.mark.parametrize("prefix", ["", "../"])
def test_the_splits_of_data_yaml_are_kept(tmp_path, prefix):
    folder = tmp_path / "in"
    for split in ("train", "valid", "test"):
        for number in range(4):
            add_image(folder / split / "images" / f"{split}{number}.jpg")
            write(folder / split / "labels" / f"{split}{number}.txt", SQUARE)
    lines = [
        f"{key}: {prefix}{place}/images" for key, place in (("train", "train"), ("val", "valid"), ("test", "test"))
    ]
    write(folder / "data.yaml", "\n".join(lines) + "\nnc: 3\n" + NAMES)
    found, left_out = convert("yolo", folder)
    assert not left_out and [len(found[split]["images"]) for split in ("train", "val", "test")] == [4, 4, 4]
    assert all(image["file_name"].startswith("valid/") for image in found["val"]["images"])
    assert [row["name"] for row in found["test"]["categories"]] == ["cat", "dog", "no"]  # also those without objects
    mixed, _ = convert("yolo", folder, "--val_fraction", "0")
    assert list(mixed) == ["train"]


def test_a_folder_for_two_splits_states_none(tmp_path):
    write(tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: images/train\nnames:\n  0: cat\n  1: dog\n")
    add(tmp_path, "a")
    assert read(tmp_path).split is None and read(tmp_path).objects[0].label == "dog"


def test_lists_of_images_state_splits(tmp_path):
    write(tmp_path / "data.yaml", "train: t.txt\nval: v.txt\n" + NAMES)
    write(tmp_path / "t.txt", "./images/train/a.jpg\n\0.jpg\n")
    write(tmp_path / "v.txt", "data/images/train/b.jpg\n")  # as CVAT exports it
    add(tmp_path, "a")
    add(tmp_path, "b")
    assert [read(tmp_path, name).split for name in "ab"] == ["train", "val"]
    assert not list(yolo.read(tmp_path / "t.txt", tmp_path))  # a list of images is no label file


def test_images_without_objects(tmp_path):
    folder = tmp_path / "in"
    write(folder / "data.yaml", NAMES)
    add(folder, "a")
    add(folder, "empty", "")
    add_image(folder / "images/train/none.jpg")  # Ultralytics needs no file for an image without objects
    add_image(folder / "other/photo.jpg")
    add_image(folder / "images/train/a.png")  # has the label file of a.jpg
    found, left_out = convert("yolo", folder, "--val_fraction", "0")
    names = [image["file_name"] for image in found["train"]["images"]]
    assert names == [f"images/train/{name}.jpg" for name in ("a", "empty", "none")]
    assert len(found["train"]["annotations"]) == 1
    assert sorted(line.split(": ")[0].split("/in/")[1] for line in left_out) == [
        "images/train/a.png",
        "other/photo.jpg",
    ]


def test_boxes_alone_are_prepared_without_masks(tmp_path, capsys):
    write(tmp_path / "in/classes.txt", "cat\n")
    add(tmp_path / "in", "a", "0 0.5 0.5 0.5 0.5\n")
    found, _ = convert("yolo", tmp_path / "in", "--val_fraction", "0")
    (row,) = found["train"]["annotations"]
    assert row["bbox"] == [15, 10, 30, 20] and row["area"] == 600 and "segmentation" not in row
    out = capsys.readouterr().out
    assert "--masks none" in out and "warning" not in out
    add(tmp_path / "in", "b", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    convert("yolo", tmp_path / "in", "--val_fraction", "0")
    assert "warning: 1 of 2 objects have a box and no mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, words",
    [
        ("dog 0.1 0.1 0.2 0.2", "not numbers"),
        ("0 nan 0.1 0.2 0.2", "not numbers"),
        ("0 0.1 0.1 1e999 0.2", "not numbers"),
        ("0 0.1 0.1 0.2", "4 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.9", "6 numbers"),
        ("3 0.1 0.1 0.2 0.2", "class 3"),
        ("-1 0.1 0.1 0.2 0.2", "class -1"),
        ("0.5 0.1 0.1 0.2 0.2", "class 0.5"),
        ("9" * 400 + " 0.1 0.1 0.2 0.2", "not numbers"),
        ("0 100 100 20 20", "width and height: 100"),
        ("0 0.1 0.1 0 0.2", "bbox [6.0, 0.0, 0.0, 8.0]: "),
        ("0 1.9 1.9 .1 .1", "bbox [111.0, 74.0, 6.0, 4.0] in an image of 60 x 40 pixels"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, words):
    folder = tmp_path / "in"
    write(folder / "data.yaml", NAMES)
    add(folder, "a", SQUARE + line + "\n" + SQUARE)
    found, left_out = convert("yolo", folder, "--val_fraction", "0")
    assert len(found["train"]["annotations"]) == 2
    assert len(left_out) == 1
    assert left_out[0].startswith(f"{folder}/labels/train/a.txt: line 2: ") and words in left_out[0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("names: {0: cat, x: dog}", "not a list of names"),
        ("names: 3", "not a list of names"),
        ("names: [" * 3000, "not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]", "not a list of names"),
        ("names: {0: cat, 1000000000000: dog}", "not a list of names"),
        ("nc: 2", "no data.yaml or classes.txt"),
        ("names: [a" + "b" * (1 << 20) + "]", "more than"),
    ],
)
def test_bad_names_are_refused(tmp_path, text, words):
    write(tmp_path / "data.yaml", text)
    add(tmp_path, "a")
    with pytest.raises(Rejected, match=words):
        read(tmp_path)


def test_classes_of_one_name_are_one_with_a_warning(tmp_path, capsys):
    folder = tmp_path / "in"
    write(folder / "one/data.yaml", "names: {0: cat, 1: dog, 3: ' cat', 5: cat, 6: dog}")
    write(folder / "two/classes.txt", "dog\n\n\ncat\n")
    add(folder / "one", "a", SQUARE.replace("1", "3", 1) + SQUARE)
    add(folder / "two", "b", SQUARE.replace("1", "3", 1))
    found, left_out = convert("yolo", folder, "--val_fraction", "0")
    assert [row["name"] for row in found["train"]["categories"]] == ["cat", "dog"] and not left_out
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")] == [
        f"warning: 3 classes are named cat (numbers 0, 3, 5 in {folder}/one/data.yaml): they become one class",
        f"warning: 2 classes are named dog (numbers 1, 6 in {folder}/one/data.yaml): they become one class",
    ]


def test_many_classes_of_one_name_are_one_warning(tmp_path, capsys):
    write(tmp_path / "in/classes.txt", "".join(f"c{number % 15}\n" for number in range(300)))
    add(tmp_path / "in", "a")
    convert("yolo", tmp_path / "in", "--val_fraction", "0", "--classes", "c1")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(lines) == 11 and lines[-1] == "warning: 5 more like these"
    assert "20 classes are named c0 (numbers 0, 15, 30, 45, 60, 75, 90, 105 and 12 more in " in lines[0]


def test_a_damaged_data_yaml_is_read_once(tmp_path, monkeypatch):
    calls, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda *args: calls.append(1) or load(*args))
    write(tmp_path / "data.yaml", "names: [a\nb: c")
    for name in "abc":
        add(tmp_path, name)
        with pytest.raises(Rejected, match="is not YAML"):
            read(tmp_path, name)
    assert len(calls) == 1


def test_a_damaged_list_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    add(tmp_path, "a")
    with pytest.raises(Rejected, match=r"classes\.txt: it is not UTF-8"):
        read(tmp_path)


def test_a_folder_above_that_cannot_be_listed_names_no_classes(tmp_path, monkeypatch):
    folder, listdir = tmp_path / "home", os.listdir

    def refuse(path):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    write(folder / "classes.txt", "cat\ndog\n")  # opened by its name
    add(folder, "a")
    assert read(folder).objects[0].label == "dog"
    (folder / "classes.txt").rename(folder / "other")
    add(folder, "b", split="val")
    with pytest.raises(Rejected, match=r"no data\.yaml or classes"):
        read(folder, "b", "val")


def test_names_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.yaml", "names: !!python/object/apply:os.system [touch bad]")
    add(tmp_path, "a", "0 0.5 0.5 0.5 0.5")
    assert read(tmp_path).objects[0].label == "touch bad" and not (tmp_path / "bad").exists()


def test_files_without_an_image(tmp_path):
    write(tmp_path / "data.yaml", NAMES)
    write(tmp_path / "labels/lost.txt", SQUARE)
    write(tmp_path / "labels/README.roboflow.txt", "0 is the first class")
    with pytest.raises(Rejected, match="no image lost"):
        list(yolo.read(tmp_path / "labels/lost.txt", tmp_path))
    assert not list(yolo.read(tmp_path / "labels/README.roboflow.txt", tmp_path))
