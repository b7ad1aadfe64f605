"""COCO to records, from the command line to the bytes: a tiny set drawn here, and real COCO where it is at hand."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from htc_tf.data.datasets import coco_from_records, load_info, read_shard
from htc_tf.data.schema import MASK_PNG, unpack
from pipelines import coco_to_tfrecord, shards
from pipelines.checks import allowed
from pipelines.plan import Options, make_plan

ROOT = Path(__file__).resolve().parents[2]
SIZES = [(20, 30), (30, 20), (24, 24), (16, 40), (20, 20), (32, 18), (20, 30)]


@pytest.fixture
def tiny(tmp_path):
    """Seven images and their stuff maps; polygons, both kinds of run lengths, a crowd, an image without objects."""
    random = np.random.RandomState(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}]}
    for folder in ("images", "stuff"):
        (tmp_path / folder).mkdir()
    for index, (height, width) in enumerate(SIZES):
        name = f"{index:03d}.jpg"
        pixels = random.randint(0, 255, (height, width, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / name)
        stuff = np.full((height, width), 5, np.uint8)
        stuff[:4] = 255
        PIL.Image.fromarray(stuff).save(tmp_path / "stuff" / name.replace("jpg", "png"))
        content["images"].append({"id": 100 + index, "file_name": name, "height": height, "width": width})
        for number in range(index):
            content["annotations"].append(make_annotation(random, 10 * index + number + 1, 100 + index, height, width))
    return write(tmp_path, content)


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
    """The one line on standard error of a command that must end with status 2."""
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
    """Every file that readers of the data set see, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def records(info):
    pairs = zip(info.shard_paths, info.shards, strict=True)
    return [unpack(row) for path, shard in pairs for row in read_shard(path, shard.records)]


def check_truth(info, annotations):
    """The records' truth against the annotation file, as pycocotools reads it."""
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


def test_records_hold_what_the_files_say(tiny):
    info = prepare(tiny, shards=3, stuff=True)
    check_truth(info, tiny / "instances.json")
    assert (info.class_names, info.category_ids, info.num_classes) == (("dog", "cat"), (2, 9), 2)
    assert (info.images, info.records, info.objects, info.crowd) == (7, 7, 21, 7)
    assert (info.masks, info.stuff.present, info.stuff.labels) == (True, True, 6)
    assert sorted(shard.records for shard in info.shards) == [2, 2, 3]
    assert info.counters["images_without_objects"] == 1
    for record in records(info):
        name = record.image.filename
        assert record.image.encoded == (tiny / "images" / name).read_bytes()
        assert record.semantic == (tiny / "stuff" / name.replace("jpg", "png")).read_bytes()
        assert all(item.text == {9: "cat", 2: "dog"}[item.label] for item in record.objects)


def test_real_coco(coco_sample, tmp_path):
    annotations = coco_sample / "annotations" / "instances_val2017.json"
    words = [f"--annotations={annotations}", f"--images={coco_sample / 'val2017'}", f"--output={tmp_path}"]
    coco_to_tfrecord.main(words)
    info = load_info(tmp_path)
    assert (info.images, info.objects, info.crowd, info.num_classes) == (148, 1225, 15, 80)
    assert info.counters["images_without_objects"] == 2
    check_truth(info, annotations)


def test_real_stuff_maps(coco_sample, tmp_path):
    folder = coco_sample / "panoptic"
    annotations = folder / "annotations" / "instances_val2017.json"
    words = [f"--annotations={annotations}", f"--images={folder / 'val2017'}", f"--output={tmp_path}"]
    coco_to_tfrecord.main([*words, f"--stuff={folder / 'stuffthingmaps' / 'val2017'}", "--stuff_labels=183"])
    info = load_info(tmp_path)
    assert (info.stuff.present, info.stuff.labels, info.images) == (True, 183, 3)
    for record in records(info):
        labels = tf.io.decode_png(record.semantic, channels=1)
        assert labels.shape == (record.image.height, record.image.width, 1)


def test_same_bytes_in_this_process_and_in_several(tiny):
    prepare(tiny, "one", shards=3)
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, "-m", "pipelines.coco_to_tfrecord", *arguments(tiny, "two", shards=3), *workers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "7/7" in done.stderr and "image/s" in done.stderr
    assert contents(tiny / "one") == contents(tiny / "two")


def test_order_is_of_the_seed(tiny):
    orders = [[record.image.source_id for record in records(prepare(tiny, f"s{s}", seed=s))] for s in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100, 107))


def test_a_rerun_does_only_what_is_unfinished(tiny):
    prepare(tiny, shards=3)
    folder = tiny / "records"
    before = contents(folder)
    (folder / "00001-of-00003.tfrecord").unlink()
    (folder / "dataset_info.json").unlink()
    (folder / "00002-of-00003.tfrecord.tmp-0123").write_bytes(b"half")
    untouched = (folder / "00000-of-00003.tfrecord").stat().st_mtime_ns
    prepare(tiny, shards=3)
    assert contents(folder) == before
    assert (folder / "00000-of-00003.tfrecord").stat().st_mtime_ns == untouched


def test_a_rerun_finds_the_images_that_were_missing(tiny, capsys):
    (tiny / "images" / "003.jpg").rename(tiny / "003.jpg")
    assert "image_missing 1" in refuse(capsys, tiny, max_bad_fraction=0)
    assert not (tiny / "records" / "dataset_info.json").exists()
    (tiny / "003.jpg").rename(tiny / "images" / "003.jpg")
    assert prepare(tiny, max_bad_fraction=0).images == 7


def test_a_folder_of_other_records_is_left_alone(tiny, capsys):
    prepare(tiny, shards=3)
    before = contents(tiny / "records")
    line = refuse(capsys, tiny, shards=4)
    assert "shards was 3, is 4" in line and str(tiny / "records") in line
    assert contents(tiny / "records") == before


def test_rejections_are_counted_and_listed(tiny):
    def spoil(content):
        content["annotations"][0]["category_id"] = 77
        content["annotations"][1]["image_id"] = 999
        content["annotations"][2]["id"] = content["annotations"][3]["id"]
        content["annotations"].append(dict(content["annotations"][7]))
        content["annotations"][4]["bbox"] = [1, 1, 0, 5]
        content["annotations"][5]["segmentation"] = [[1e9, 0, 5, 5, 0, 5]]
        content["annotations"][6]["id"] = 0
        content["annotations"] += [None, {"id": "x", "iscrowd": 2}]
        content["images"] += [{"id": 106, "file_name": "again.jpg", "height": 2, "width": 2}, {"file_name": "?"}]
        for identifier, name in enumerate(("../secret.jpg", "a/../../secret.jpg", "/secret.jpg"), 200):
            content["images"].append({"id": identifier, "file_name": name, "height": 2, "width": 2})

    (tiny / "images" / "005.jpg").write_bytes((tiny / "images" / "005.jpg").read_bytes()[:300])
    info = prepare(edit(tiny, spoil), max_bad_fraction=1)
    counters, rows = report(tiny)
    expected = {
        "category_unknown": 1,
        "image_unknown": 1,
        "annotation_duplicate": 1,
        "box_empty": 1,
        "polygon_far_outside": 1,
        "annotation_malformed": 2,
        "image_duplicate": 2,
        "image_malformed": 1,
        "image_outside_root": 3,
        "image_unreadable": 1,
    }
    assert {row["reason"]: counters[row["reason"]] for row in rows} == expected
    assert len(rows) == sum(expected.values())
    assert counters["ids_renumbered"] == 2 and counters["objects_of_rejected_images"] == 5 + 6
    assert (info.images, info.objects) == (5, 21 - 4 - 5 - 6)
    assert {"reason", "detail", "image_id", "file_name"} <= rows[0].keys()
    victims = {(row["reason"], row.get("annotation_id"), row["image_id"]) for row in rows}
    assert victims >= {("category_unknown", 11, 101), ("image_unknown", 21, 999), ("annotation_duplicate", 42, 104)}
    assert victims >= {("box_empty", 32, 103), ("polygon_far_outside", 33, 103), ("annotation_malformed", "x", None)}
    assert victims >= {("image_outside_root", None, identifier) for identifier in (200, 201, 202)}
    assert victims >= {("image_duplicate", None, 106), ("image_malformed", None, None), ("image_unreadable", None, 105)}
    assert next(row["file_name"] for row in rows if row["reason"] == "image_unreadable") == "005.jpg"
    assert {67, 68} < {row["id"] for row in coco_from_records(info)["annotations"]}  # 66 was the largest


@pytest.mark.parametrize("listed, most", [(0, 0), (1, 0), (2, 0), (3, 1), (6, 2), (7, 3), (100, 3), (5000, 5)])
def test_a_few_rejected_entries_are_always_allowed_but_never_half(listed, most):
    assert allowed(listed, 0.001) == most
    assert allowed(listed, 0.5) == max(listed // 2, most)
    assert allowed(listed, 0) == 0


def test_the_message_names_the_bound_that_would_pass(tiny, capsys):
    def spoil(content):
        for row in content["annotations"][:4]:
            row["bbox"] = [1, 1, 0, 5]

    edit(tiny, spoil)
    line = refuse(capsys, tiny)
    assert "4 of 21 annotations were rejected (box_empty 4)" in line and "to continue without them: " in line
    assert "--max_bad_fraction 0.191" in line
    assert prepare(tiny, max_bad_fraction=0.191).objects == 17


def test_a_set_of_which_no_image_is_left_fails_whatever_the_bound(tiny, capsys):
    for path in (tiny / "images").iterdir():
        path.write_bytes(b"")
    line = refuse(capsys, tiny, max_bad_fraction=1)
    assert "7 of 7 images were rejected" in line and "to continue" not in line


def test_what_training_would_suffer_from_is_said(tiny, capsys):
    def all_crowd(content):
        for row in content["annotations"]:
            row["iscrowd"] = 1
        content["categories"].append({"id": 10, "name": "cat"})
        content["images"][2]["file_name"] = content["images"][3]["file_name"]
        content["images"][2] |= {key: content["images"][3][key] for key in ("height", "width")}
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in (102, 103)]

    info = prepare(edit(tiny, all_crowd))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 4
    assert "2 images share files with others, the first is 003.jpg (ids 102, 103)" in said[0] or "share" in said[1]
    assert any("2 classes are named 'cat' (category ids 9, 10)" in line for line in said)
    assert any("1 of 3 classes have no object: cat" in line for line in said)
    assert any("all 16 objects are crowd regions" in line for line in said)
    assert info.counters["images_sharing_a_file"] == 2


def test_boxes_that_are_corners_or_fractions_are_recognized(tiny, capsys):
    def corners(content):
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["bbox"] = [x, y, x + w, y + h]

    line = refuse(capsys, edit(tiny, corners))
    assert "it looks as if bbox is [x1, y1, x2, y2]" in line and "--boxes mask" in line
    assert prepare(tiny, "taken", boxes="mask").counters["boxes_computed"] == 21

    def fractions(content):
        for row in content["annotations"]:
            row["bbox"] = [0.1, 0.2, 0.3, 0.4]
            del row["segmentation"]

    edit(tiny, fractions)
    line = refuse(capsys, tiny, f"--output={tiny / 'boxes'}")
    assert "21 of 21 objects are smaller than one pixel: their boxes look like fractions" in line
    assert prepare(tiny, "kept", boxes="unchecked").counters["objects_tiny"] == 21


def test_half_surrogates_reach_no_file(tiny):
    def spoil(content):
        content["images"][0]["file_name"] = "\ud800.jpg"
        content["annotations"][0]["segmentation"] = {"size": [30, 20], "counts": "\ud800"}
        content["annotations"][1] |= {"area": "\udfff", "id": "\ud800"}

    info = prepare(edit(tiny, spoil), max_bad_fraction=0.2)
    assert (info.images, info.objects) == (6, 20)
    reasons = {row["reason"]: row for row in report(tiny)[1]}
    assert reasons.keys() == {"image_malformed", "rle_malformed"}
    assert reasons["image_malformed"]["file_name"] == "\\ud800.jpg"


def test_names_that_the_terminal_cannot_show_end_no_job(tiny, monkeypatch):
    def rename(content):
        content["categories"] = [{"id": 9, "name": "细胞"}, {"id": 2, "name": "细胞"}]

    edit(tiny, rename)
    annotations = (tiny / "instances.json").rename(os.fsdecode(os.fsencode(tiny) + b"/c\xe9.json"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    info = prepare(tiny, **{"annotations": annotations})
    assert "2 classes are named '\\u7ec6\\u80de'" in terminal.buffer.getvalue().decode()
    assert info.class_names == ("细胞", "细胞")


def test_ids_that_mean_nothing_are_replaced(tiny):
    def restart(content):
        for row in content["annotations"]:
            row["id"] = row["id"] % 10  # from 1 in every image
        content["annotations"][0] |= {"id": "3f2504e0-4f89-11d3"}
        del content["annotations"][1]["id"]

    info = prepare(edit(tiny, restart))
    ids = [item.id for record in records(info) for item in record.objects]
    assert len(set(ids)) == 21 and 0 not in ids
    assert info.counters["ids_renumbered"] == 15  # six are the first of their id


def test_a_file_as_windows_writes_it(tiny):
    path = tiny / "instances.json"
    text = path.read_text()
    for number, encoding in enumerate(("utf-8-sig", "utf-16", "utf-16-be")):
        path.write_bytes(text.encode(encoding))
        info = prepare(tiny, f"records{number}")
        assert (info.objects, info.counters["file_recoded"]) == (21, 1)


def test_unknown_categories_are_named(tiny, capsys):
    def spoil(content):
        for row, category in zip(content["annotations"], (77, 78, 77), strict=False):
            row["category_id"] = category

    line = refuse(capsys, edit(tiny, spoil), max_bad_fraction=0)
    assert "instances.json" in line and "category ids 77, 78" in line and "rejected.jsonl" in line
    assert [row["category_id"] for row in report(tiny)[1]] == [77, 78, 77]
    assert not list((tiny / "records").glob("*.tfrecord"))


def test_boxes_only(tiny):
    def drop_masks(content):
        for row in content["annotations"]:
            del row["segmentation"]

    info = prepare(edit(tiny, drop_masks))
    assert not info.masks and not info.stuff.present and info.objects == 21
    assert all("segmentation" not in row for row in coco_from_records(info)["annotations"])


def without(key):
    def change(text):
        content = json.loads(text)
        del content[key]
        return json.dumps(content)

    return change


def emptied(key):
    return lambda text: json.dumps(json.loads(text) | {key: []})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda text: "", "is empty (0 bytes)"),
        (lambda text: text[:-9], "it was cut"),
        (lambda text: " \n", "contains only blanks or NUL bytes"),
        (lambda text: "\0" * 500, "contains only blanks or NUL bytes"),
        (lambda text: text.replace(":", "=", 1), "is not JSON: Expecting ':' delimiter at line 1, column"),
        (lambda text: "[" * 100_000, "nested too deeply"),
        (lambda text: text + text, "several JSON values"),
        (lambda text: text.replace("100", "9" * 5000, 1), "is not valid JSON"),
        (lambda text: "<!DOCTYPE html><html>404</html>", "is an HTML or XML page"),
        (lambda text: "version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (lambda text: text.replace("dog", "\\ud800"), "half a character"),
        (lambda text: "[]", "holds a list"),
        (lambda text: "{}", "no list 'images'"),
        (without("categories"), "no list 'categories'"),
        (without("annotations"), "no list 'annotations'"),
        (emptied("images"), "its list 'images' is empty"),
        (emptied("annotations"), "its list 'annotations' is empty"),
        (emptied("categories"), "its list 'categories' is empty"),
        (
            lambda text: text.replace('"id": 9, "name": "cat"', '"id": 2, "name": "cat"'),
            "category id 2 is defined twice",
        ),
        (lambda text: text.replace('"id": 9, "name": "cat"', '"name": "cat"'), "has no integer id"),
        (lambda text: text.replace('"name": "cat"', '"title": "cat"'), "id 9, has no name"),
        (lambda text: text.replace('"height"', '"rows"'), "none of its 7 images is usable"),
    ],
)
def test_unusable_annotation_files(tiny, capsys, change, said):
    path = tiny / "instances.json"
    path.write_text(change(path.read_text()))
    line = refuse(capsys, tiny)
    assert said in line and str(path) in line
    assert not list((tiny / "records").glob("*.tfrecord"))


def test_missing_inputs_and_mistaken_flags(tiny, capsys):
    assert "knows --ouput" in refuse(capsys, tiny, "--ouput=there")
    assert "knows there" in refuse(capsys, tiny, "there")
    assert "--direct_num_workers" in refuse(capsys, tiny, "--num_workers=2")
    for name in ("annotations", "images", "stuff", "output"):  # an unset variable of a shell
        assert f"--{name} is empty" in refuse(capsys, tiny, f"--{name}=")
    assert "--shards 8 is more than the 7 images" in refuse(capsys, tiny, shards=8)
    assert "no such folder" in refuse(capsys, tiny, f"--stuff={tiny / 'nowhere'}")
    assert "no such folder" in refuse(capsys, tiny, f"--images={tiny / 'nowhere'}")
    (tiny / "instances.json").unlink()
    assert "no such file" in refuse(capsys, tiny)
    (tiny / "instances.json").mkdir()
    assert "is a folder: give the JSON file in it" in refuse(capsys, tiny)
    assert "merge several files" in refuse(capsys, tiny, f"--annotations={tiny}/*.json")
    assert not list((tiny / "records").glob("*.tfrecord"))


def test_the_beam_step(tiny):
    output = str(tiny / "records")
    plan = make_plan(str(tiny / "instances.json"), str(tiny / "images"), output, Options(shards=3))
    job = shards.Job(plan, str(tiny / "images"), None, output, "nowhere")
    pipeline = test_pipeline.TestPipeline(runner=FnApiRunner())
    written = pipeline | beam.Create([0, 2]) | shards.WriteShards(job)
    assert_that(written, equal_to(["00000-of-00003.tfrecord", "00002-of-00003.tfrecord"]))
    result = pipeline.run()
    result.wait_until_finish()
    metrics = result.metrics().query()
    counted = {row.key.metric.name: row.committed for row in metrics["counters"]}
    assert counted["images"] == sum(plan.images[shard] for shard in (0, 2))
    sidecars = shards.read_sidecars(output, plan)
    assert [sidecar is not None for sidecar in sidecars] == [True, False, True]
    sizes = [int(size) for sidecar in sidecars if sidecar for size in sidecar["objects_per_image"]]
    (spread,) = (row.committed for row in metrics["distributions"] if row.key.metric.name == "objects_per_image")
    assert (spread.count, spread.sum) == (counted["images"], counted["objects"])
    assert (spread.min, spread.max) == (min(sizes), max(sizes))


def test_every_reason_reaches_the_report_by_name(tiny):
    """Files of all kinds of damage at once: each row names its image, its annotation and why."""
    spoilers = {
        "image_missing": lambda path: path.unlink(),
        "image_unreadable": lambda path: path.write_text("<html>404</html>"),
        "image_size_differs": lambda path: PIL.Image.new("RGB", (9, 9)).save(path),
        "image_mode": lambda path: PIL.Image.new("F", PIL.Image.open(path).size).save(path, "TIFF"),
        "image_outside_root": lambda path: link_elsewhere(path),
    }
    for index, spoil in enumerate(spoilers.values(), 2):
        spoil(tiny / "images" / f"{index:03d}.jpg")

    def spoil_masks(content):
        content["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}

    info = prepare(edit(tiny, spoil_masks), max_bad_fraction=1)
    assert info.images == 2
    named = {(row["reason"], row["image_id"], row["file_name"], row.get("annotation_id")) for row in report(tiny)[1]}
    expected = {(reason, 100 + index, f"{index:03d}.jpg", None) for index, reason in enumerate(spoilers, 2)}
    assert named == expected | {("rle_size_differs", 101, "001.jpg", 11)}


def test_every_fault_of_a_stuff_map_is_reported_by_name(tiny):
    spoilers = {
        "stuff_missing": lambda path: path.unlink(),
        "stuff_size_differs": lambda path: PIL.Image.new("L", (9, 9)).save(path),
        "stuff_label_unknown": lambda path: PIL.Image.new("L", PIL.Image.open(path).size, 6).save(path),
        "stuff_unreadable": lambda path: path.write_bytes(b"GIF"),
    }
    for index, spoil in zip((0, 1, 2, 5), spoilers.values(), strict=True):
        spoil(tiny / "stuff" / f"{index:03d}.png")
    prepare(tiny, stuff=True, stuff_labels=6, max_pixels=620, max_bad_fraction=1)
    named = {(row["reason"], row["image_id"], row["file_name"]) for row in report(tiny)[1]}
    found = {(reason, 100 + i, f"{i:03d}.jpg") for i, reason in zip((0, 1, 2, 5), spoilers, strict=True)}
    assert named == found | {("image_too_large", 103, "003.jpg")}


def link_elsewhere(path):
    path.rename(path.parent.parent / "elsewhere.jpg")
    path.symlink_to(path.parent.parent / "elsewhere.jpg")


def test_objects_per_image_are_reported(tiny):
    prepare(tiny)
    content = json.loads((tiny / "records" / "report.json").read_text())
    assert content["objects_per_image"] == {str(number): 1 for number in range(7)}


def test_headers_alone_give_the_same_records(tiny):
    prepare(tiny, "full", shards=3)
    prepare(tiny, "header", shards=3, decode="header")
    names = [f"{shard:05d}-of-00003.tfrecord" for shard in range(3)]
    assert [contents(tiny / "full")[name] for name in names] == [contents(tiny / "header")[name] for name in names]


def test_model_gardens_masks_beside_the_run_lengths(tiny):
    prepare(tiny, "rle")
    info = prepare(tiny, "png", masks="png")
    check_truth(info, tiny / "instances.json")
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        for serialized in read_shard(path, shard.records):
            check_mask_pngs(serialized)
    assert records(info) == records(load_info(tiny / "rle"))


def check_mask_pngs(serialized):
    """The PNGs, decoded as Model Garden's parser decodes them, against pycocotools' reading of the run lengths."""
    record = unpack(serialized)
    feature = tf.train.Example.FromString(serialized).features.feature
    pngs = feature[MASK_PNG.key].bytes_list.value
    assert len(pngs) == len(record.objects)
    size = [record.image.height, record.image.width]
    for png, item in zip(pngs, record.objects, strict=True):
        mask = tf.io.decode_png(png, channels=1)[..., 0]
        np.testing.assert_array_equal(mask, coco_mask.decode({"size": size, "counts": item.mask_rle}))


def test_model_gardens_own_decoder_reads_the_records(tiny):
    decoders = pytest.importorskip("official.vision.dataloaders.tf_example_decoder", reason="tf-models-official")
    info = prepare(tiny, masks="png")
    decoder = decoders.TfExampleDecoder(include_mask=True)
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        for serialized in read_shard(path, shard.records):
            image, objects, _ = unpack(serialized)
            decoded = decoder.decode(tf.constant(serialized))
            assert decoded["source_id"] == str(image.source_id)
            assert decoded["image"].shape == (image.height, image.width, 3)
            boxes = [(item.ymin, item.xmin, item.ymax, item.xmax) for item in objects]
            np.testing.assert_array_equal(decoded["groundtruth_boxes"], np.float32(boxes).reshape(-1, 4))
            np.testing.assert_array_equal(decoded["groundtruth_classes"], [item.label for item in objects])
            np.testing.assert_array_equal(decoded["groundtruth_is_crowd"], [bool(item.is_crowd) for item in objects])
            np.testing.assert_array_equal(decoded["groundtruth_area"], [item.area for item in objects])
            masks = decoded["groundtruth_instance_masks"].numpy().reshape(-1, image.height, image.width)
            size = [image.height, image.width]
            expected = [coco_mask.decode({"size": size, "counts": item.mask_rle}) for item in objects]
            np.testing.assert_array_equal(masks, np.reshape(expected, (-1, *size)))


def test_no_masks_where_none_are_wanted(tiny):
    info = prepare(tiny, masks="none")
    assert not info.masks and info.objects == 21
    assert all("segmentation" not in row for row in coco_from_records(info)["annotations"])


def make_panoptic(folder):
    """A panoptic file and its PNGs, which say what the stuff maps of `tiny` say: 5 where they are not ignored."""
    (folder / "panoptic").mkdir()
    annotations = []
    for index, (height, width) in enumerate(SIZES):
        colors = np.zeros((height, width, 3), np.uint8)
        colors[4:, :, 1] = index + 1
        PIL.Image.fromarray(colors).save(folder / "panoptic" / f"{index:03d}.png")
        segments = [{"id": 256 * (index + 1), "category_id": 6}]
        annotations.append({"image_id": 100 + index, "file_name": f"{index:03d}.png", "segments_info": segments})
    content = {"annotations": annotations, "categories": [{"id": 6, "name": "sky"}]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return content


def test_panoptic_segments_make_the_same_maps(tiny):
    make_panoptic(tiny)
    folder = prepare(tiny, "folder", stuff=True)
    drawn = prepare(edit(tiny, lambda content: None), "drawn", stuff="panoptic.json")
    assert drawn.stuff == folder.stuff and drawn.stuff.labels == 6
    assert drawn.inputs.keys() == {"instances.json", "stuff/panoptic.json"}
    for one, other in zip(records(drawn), records(folder), strict=True):
        assert one._replace(semantic=b"") == other._replace(semantic=b"")
        np.testing.assert_array_equal(tf.io.decode_png(one.semantic), tf.io.decode_png(other.semantic))


def test_images_that_the_panoptic_file_lacks_are_named(tiny, capsys):
    content = make_panoptic(tiny)
    content["annotations"].pop(2)
    (tiny / "panoptic.json").write_text(json.dumps(content))
    line = refuse(capsys, tiny, f"--stuff={tiny / 'panoptic.json'}", max_bad_fraction=0)
    assert "stuff_missing 1" in line and "002.jpg" in line and "panoptic" in line
    (tiny / "panoptic.json").unlink()
    assert "no such file" in refuse(capsys, tiny, f"--stuff={tiny / 'panoptic.json'}")
