"""The commands that to_coco prints prepare the records of each tool's files."""

import pytest

from htc_tf.data.datasets import load_info
from pipelines import coco_to_tfrecord, to_coco
from tests.pipelines.importers import test_via, test_voc, test_yolo
from tests.pipelines.importers.conversion import write


def write_yolo(folder, boxes=False):
    write(folder / "data.yaml", "train: images/train\nval: images/val\n" + test_yolo.NAMES)
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        test_yolo.add(folder, name, "0 0.5 0.5 0.5 0.5\n" if boxes else test_yolo.SQUARE, split)


def write_voc(folder):
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        test_voc.add(folder, name, test_voc.xml_object(), test_voc.xml_object("cat", extra="<difficult>1</difficult>"))
        write(folder / f"ImageSets/Main/{split}.txt", "a\nb\n" if split == "train" else "c\n")


def write_via(folder):
    names = [f"{number}.jpg" for number in range(24)]
    entries = [test_via.entry(name, test_via.region(), test_via.region("cat")) for name in names]
    test_via.add(folder, test_via.FORMS["project"](entries), images=names)


@pytest.mark.parametrize(
    "tool, write_files, masks",
    [
        ("yolo", write_yolo, True),
        ("yolo", lambda folder: write_yolo(folder, boxes=True), False),
        ("voc", write_voc, False),
        ("via", write_via, True),
    ],
)
def test_the_printed_commands_prepare_the_records(tmp_path, capsys, tool, write_files, masks):
    write_files(tmp_path / "in")
    to_coco.main(["--from", tool, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "coco")])
    commands = [line.split()[4:] for line in capsys.readouterr().out.splitlines() if "coco_to_tfrecord" in line]
    assert len(commands) == 2 and all(("none" in words) != masks for words in commands)
    for words in commands:
        coco_to_tfrecord.main(words)
    infos = [load_info(tmp_path / "records" / split) for split in ("train", "val")]
    assert [info.masks for info in infos] == [masks, masks]
    assert sum(info.records for info in infos) == (24 if tool == "via" else 3)
    assert sum(info.objects for info in infos) == {"via": 48, "voc": 6, "yolo": 3}[tool]
