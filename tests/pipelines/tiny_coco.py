"""A tiny COCO dataset, and helpers to prepare it and to read the records."""

import json

import numpy as np
import PIL.Image
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from htc_tf.data.datasets import coco_from_records, load_info, read_shard
from htc_tf.data.schema import unpack
from pipelines import coco_to_tfrecord

SIZES = [(20, 30), (30, 20), (24, 24), (16, 40), (20, 20), (32, 18), (20, 30)]


def make(folder):
    """Writes seven images and their stuff maps.

    The annotations have polygons, both kinds of run lengths and crowd regions; one image has no objects.
    """
    random = np.random.RandomState(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for name in ("images", "stuff"):
        (folder / name).mkdir()
    for index, (height, width) in enumerate(SIZES):
        name = f"{index:03d}.jpg"
        pixels = random.randint(0, 255, (height, width, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / name)
        stuff = np.full((height, width), 5, np.uint8)
        stuff[:4] = 255
        PIL.Image.fromarray(stuff).save(folder / "stuff" / name.replace("jpg", "png"))
        content["images"].append({"id": 100 + index, "file_name": name, "height": height, "width": width})
        for number in range(index):
            content["annotations"].append(make_annotation(random, 10 * index + number + 1, 100 + index, height, width))
    return write(folder, content)


def make_annotation(random, identifier, image_id, height, width):
    mask = np.zeros((height, width), np.uint8, order="F")
    top, left = random.randint(0, 8, 2)
    mask[top : top + 6, left : left + 9] = 1
    segmentation = [[left, top, left + 9, top, left + 9, top + 6, left, top + 6]]
    if identifier % 3 == 1:
        segmentation = coco_mask.encode(mask)
        segmentation["counts"] = segmentation["counts"].decode()
    elif identifier % 3 == 2:
        flat = np.concatenate([[0], mask.flatten(order="F")])
        runs = np.diff([0, *np.flatnonzero(np.diff(flat)), mask.size])
        segmentation = {"size": [height, width], "counts": runs}
    return {
        "id": identifier,
        "image_id": image_id,
        "category_id": 9 if identifier % 2 else 2,
        "bbox": [left, top, 9, 6],
        "area": 54.0,
        "iscrowd": int(identifier % 3 == 2),
        "segmentation": segmentation,
    }


def write(folder, content):
    (folder / "instances.json").write_text(json.dumps(content, default=lambda value: value.tolist()))
    return folder


def edit(folder, change):
    """Lets `change` alter the annotation file's content."""
    content = json.loads((folder / "instances.json").read_text())
    change(content)
    return write(folder, content)


def arguments(folder, output="records", stuff=False, **flags):
    words = [f"--annotations={folder / 'instances.json'}", f"--images={folder / 'images'}"]
    if stuff:
        words += [f"--stuff={folder / ('stuff' if stuff is True else stuff)}"]
    return [*words, f"--output={folder / output}", *(f"--{name}={value}" for name, value in flags.items())]


def prepare(folder, output="records", stuff=False, **flags):
    coco_to_tfrecord.main(arguments(folder, output, stuff, **flags))
    return load_info(folder / output)


def refuse(capsys, folder, *stray, **flags):
    """Returns the line on standard error of a command that must end with status 2."""
    with pytest.raises(SystemExit) as end:
        coco_to_tfrecord.main([*arguments(folder, **flags), *stray])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def report(folder):
    rows = [json.loads(line) for line in (folder / "records" / "rejected.jsonl").read_text().splitlines()]
    return json.loads((folder / "records" / "report.json").read_text())["counters"], rows


def contents(folder):
    """Returns every file that readers of the dataset see, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def records(info):
    pairs = zip(info.shard_paths, info.shards, strict=True)
    return [unpack(row) for path, shard in pairs for row in read_shard(path, shard.records)]


def check_ground_truth(info, annotations):
    """Compares the records with the annotation file, as pycocotools reads it."""
    expected, made = COCO(annotations), coco_from_records(info)
    keys = ("id", "file_name", "height", "width")
    images = [sorted(tuple(row[key] for key in keys) for row in side["images"]) for side in (made, expected.dataset)]
    assert images[0] == images[1]
    assert len(made["annotations"]) == len(expected.anns)
    for row in made["annotations"]:
        listed = expected.anns[row["id"]]
        for key in ("image_id", "category_id", "iscrowd"):
            assert row[key] == listed[key]
        np.testing.assert_allclose(row["bbox"], listed["bbox"], atol=1e-3)
        np.testing.assert_allclose(row["area"], listed["area"], rtol=1e-6)
        counts = expected.annToRLE(listed)["counts"]
        assert row["segmentation"]["counts"].encode() == (counts.encode() if isinstance(counts, str) else counts)
