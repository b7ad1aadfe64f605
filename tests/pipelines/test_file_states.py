"""EXIF orientations are decided by the sizes of the whole dataset, and changed files are noticed."""

import json

import numpy as np
import PIL.Image
import pytest

from htc_tf.data.datasets import load_info, read_shard
from htc_tf.data.schema import unpack
from pipelines import coco_to_tfrecord, file_states

HEIGHT, WIDTH = 40, 60  # of the upright images
ORIENTATION = 0x0112


def write(path, orientation, size=(WIDTH, HEIGHT)):
    """Writes an image of the stored size (width, height) whose left half is black."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, size[0] // 2 :] = 255
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    PIL.Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(
    ("orientation", "stored", "evidence"),
    [
        (1, (WIDTH, HEIGHT), ""),
        (3, (WIDTH, HEIGHT), file_states.EITHER),
        (2, (WIDTH, HEIGHT), file_states.EITHER),
        (6, (WIDTH, HEIGHT), file_states.STORED),
        (8, (HEIGHT, WIDTH), file_states.UPRIGHT),
        (3, (HEIGHT, WIDTH), ""),
        (6, (30, 30), ""),
    ],
)
def test_evidence_of_one_image(tmp_path, ending, orientation, stored, evidence):
    write(tmp_path / f"a.{ending}", orientation, stored)
    (state,) = file_states.read_states(
        str(tmp_path), None, [file_states.State(f"a.{ending}", HEIGHT, WIDTH)], read_headers=True
    )
    assert state.evidence == evidence
    (unread,) = file_states.read_states(
        str(tmp_path), None, [file_states.State(f"a.{ending}", HEIGHT, WIDTH)], read_headers=False
    )
    assert unread == state._replace(evidence="")


def test_a_quarter_turn_of_a_square_is_no_evidence(tmp_path):
    write(tmp_path / "a.jpg", 6, (30, 30))
    (state,) = file_states.read_states(str(tmp_path), None, [file_states.State("a.jpg", 30, 30)], read_headers=True)
    assert state.evidence == file_states.EITHER


def test_files_other_than_images_are_no_evidence(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    states = [file_states.State(name, HEIGHT, WIDTH) for name in ("text.jpg", "folder.jpg", "none.jpg", "a\0b.jpg")]
    found = file_states.read_states(str(tmp_path), None, states, read_headers=True)
    assert [state.evidence for state in found] == [""] * 4
    assert [state.stamp is None for state in found] == [False, False, True, True]


@pytest.mark.parametrize(("stored", "upright", "decision"), [(0, 0, "apply"), (1, 1, "apply"), (2, 1, "ignore")])
def test_the_majority_decides(stored, upright, decision):
    kinds = [file_states.STORED] * stored + [file_states.UPRIGHT] * upright + [file_states.EITHER] * 5 + [""] * 5
    states = [file_states.State("a.jpg", HEIGHT, WIDTH, evidence=kind) for kind in kinds]
    assert file_states.decide_exif(states) == decision
    assert f"{upright} images have their annotated size only upright, {stored} only as stored; the 5 " in (
        file_states.describe(states, decision)
    )


def test_the_stuff_map_of_an_image():
    row = {"image": {"file_name": "a/b.c.jpg", "height": HEIGHT, "width": WIDTH}}
    assert file_states.new_state(row, False) == file_states.State("a/b.c.jpg", HEIGHT, WIDTH, None)
    assert file_states.new_state(row, True).stuff_name == "a/b.c.png"
    assert file_states.new_state({**row, "segments": {"file_name": "d.png", "labels": {}}}, True).stuff_name == "d.png"
    for nothing in (None, {"error": "listed twice"}):
        assert file_states.new_state({**row, "segments": nothing}, True).stuff_name is None


def test_no_line_without_orientations():
    assert file_states.describe([file_states.State("a.jpg", HEIGHT, WIDTH)], "apply") == ""


def test_only_new_and_changed_headers_are_read(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path / name, 3)
    listed = [file_states.State(name, HEIGHT, WIDTH) for name in ("a.jpg", "b.jpg")]
    before = file_states.read_states(str(tmp_path), None, listed, read_headers=True)
    write(tmp_path / "b.jpg", 1, (30, 30))
    read = []
    monkeypatch.setattr(file_states, "_find_evidence", lambda root, state: read.append(state.file_name) or "")
    now = file_states.read_states(str(tmp_path), None, before, read_headers=True)
    assert read == file_states.changes(before, now) == ["b.jpg"]
    assert now[0] == before[0] and file_states.removed(before, now) == []
    (tmp_path / "a.jpg").unlink()
    assert file_states.removed(before, file_states.read_states(str(tmp_path), None, before, read_headers=True)) == [
        "a.jpg"
    ]


def data_set(folder, stored):
    """Writes a half turn, and two quarter turns that have the annotated size either as stored or upright."""
    (folder / "images").mkdir()
    write(folder / "images" / "half.png", 3)
    for name in ("a.png", "b.png"):
        write(folder / "images" / name, 6, (WIDTH, HEIGHT) if stored else (HEIGHT, WIDTH))
    names = enumerate(("half.png", "a.png", "b.png"), 1)
    images = [{"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH} for number, name in names]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    annotation["segmentation"] = [[2, 2, 22, 2, 22, 22, 2, 22]]
    content = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "a"}]}
    (folder / "coco.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("stored", "flag", "turned"),
    [(False, "auto", True), (True, "auto", False), (True, "apply", True), (False, "ignore", False)],
)
def test_the_set_decides_over_a_half_turn(tmp_path, capsys, stored, flag, turned):
    data_set(tmp_path, stored)
    paths = {"annotations": "coco.json", "images": "images", "output": "records"}
    flags = [f"--{name}={tmp_path / value}" for name, value in paths.items()] + [f"--exif={flag}"]
    coco_to_tfrecord.main(flags)
    info = load_info(tmp_path / "records")
    assert info.options["exif"] == ("apply" if turned else "ignore")
    images = [unpack(row).image for row in read_shard(info.shard_paths[0], 3)]
    (half,) = (image for image in images if image.filename == "half.png")
    path = tmp_path / "half.png"
    path.write_bytes(half.encoded)
    # The stored left is black; upright, it is the right.
    assert PIL.Image.open(path).convert("RGB").getpixel((0, 0)) == ((255, 255, 255) if turned else (0, 0, 0))
    expected = "turned upright" if turned else "not turned"
    assert (f"the 1 that have it both ways are {expected}" in capsys.readouterr().out) == (flag == "auto")
    coco_to_tfrecord.main(flags)
    with pytest.raises(SystemExit):
        coco_to_tfrecord.main([*flags, "--exif=" + ("apply" if flag != "apply" else "ignore")])
    assert f"--exif was {flag}" in capsys.readouterr().err
