"""Annotation files: encodings, ids and names are repaired, unusable files are refused in one line."""

import io
import json
import os
import re
import sys

import pytest

from pipelines import coco
from pipelines.checks import Counters
from tests.pipelines.tiny_coco import edit, prepare, records, refuse, report


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


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac's file systems refuse names that are not UTF-8")
def test_names_that_the_terminal_cannot_show_do_not_end_the_job(tiny, monkeypatch):
    def rename(content):
        content["categories"] = [{"id": 9, "name": "细胞"}, {"id": 2, "name": "细胞"}]

    edit(tiny, rename)
    annotations = (tiny / "instances.json").rename(os.fsdecode(os.fsencode(tiny) + b"/c\xe9.json"))
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    info = prepare(tiny, **{"annotations": annotations})
    assert "2 classes are named '\\u7ec6\\u80de'" in terminal.buffer.getvalue().decode()
    assert info.class_names == ("细胞", "细胞")


def test_unusable_ids_are_replaced(tiny):
    def restart(content):
        for row in content["annotations"]:
            row["id"] = row["id"] % 10  # from 1 in every image
        content["annotations"][0] |= {"id": "3f2504e0-4f89-11d3"}
        del content["annotations"][1]["id"]

    info = prepare(edit(tiny, restart))
    ids = [item.id for record in records(info) for item in record.objects]
    assert len(set(ids)) == 21 and 0 not in ids
    assert info.counters["ids_renumbered"] == 15  # six are the first of their id


@pytest.mark.parametrize("side", [0, -1, 2.5, True, 2**63, 2**70])
def test_images_of_impossible_sizes_are_rejected_briefly(side):
    counters = Counters()
    assert not coco.check_images([{"id": 1, "file_name": "a.jpg", "height": 4, "width": side}], counters)
    (row,) = counters.rejected
    assert row["reason"] == "image_malformed" and "width is " in row["detail"] and len(row["detail"]) < 100


@pytest.mark.parametrize("key", ["segmentation", "bbox", "area"])
def test_deep_lists_do_not_reach_the_plan(key):
    """JSON that this process can just read is too deep for a worker, whose stack is deeper."""
    deep = json.loads("[" * 900 + "]" * 900)
    whole = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[[[[1, 2], [3, 4], [5, 6]]]]]}
    counters = Counters()
    annotations = [{"id": 1, **whole}, {"id": 2, **whole, key: deep}, {"id": 3, **whole, key: {"counts": [[], deep]}}]
    kept = coco.check_annotations(annotations, {1: {}}, [{"id": 1, "name": "dog"}], counters)
    assert [row["id"] for row in kept[1]] == [1]
    assert {row["detail"] for row in counters.rejected} == {"its lists are nested more than 8 levels deep"}


def test_annotation_files_in_the_encodings_of_windows(tiny):
    path = tiny / "instances.json"
    text = path.read_text()
    for number, encoding in enumerate(("utf-8-sig", "utf-16", "utf-16-be")):
        path.write_bytes(text.encode(encoding))
        info = prepare(tiny, f"records{number}")
        assert (info.objects, info.counters["file_recoded"]) == (21, 1)


def test_a_dataset_of_background(tiny, capsys):
    info = prepare(edit(tiny, lambda content: content.update(annotations=[])))
    assert (info.images, info.objects, info.masks) == (7, 0, True)
    out = capsys.readouterr().out
    assert "warning: no record contains an object" in out and "cannot train masks" not in out


def without(key):
    def change(text):
        content = json.loads(text)
        del content[key]
        return json.dumps(content)

    return change


def emptied(key):
    return lambda text: json.dumps(json.loads(text) | {key: []})


@pytest.mark.parametrize(
    "change, expected",
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
        (lambda text: text.replace("dog", "\\ud800"), "unpaired surrogate"),
        (lambda text: "[]", "holds a list"),
        (lambda text: "{}", "no list 'images'"),
        (without("categories"), "no list 'categories'"),
        (without("annotations"), "no list 'annotations'"),
        (emptied("images"), "its list 'images' is empty"),
        (emptied("categories"), "its list 'categories' is empty"),
        (
            lambda text: text.replace('"id": 9, "name": "cat"', '"id": 2, "name": "cat"'),
            "category id 2 is defined twice",
        ),
        (lambda text: text.replace('"id": 9, "name": "cat"', '"name": "cat"'), "has no integer id"),
        (lambda text: text.replace('"name": "cat"', '"title": "cat"'), "id 9, has no name"),
        (lambda text: text.replace('"height"', '"rows"'), "none of the 7 images is usable"),
        (lambda text: re.sub(r'"file_name": "\d+.jpg"', '"file_name": 5', text), "the first: 5: no file_name"),
    ],
)
def test_unusable_annotation_files(tiny, capsys, change, expected):
    path = tiny / "instances.json"
    path.write_text(change(path.read_text()))
    line = refuse(capsys, tiny)
    assert expected in line and str(path) in line
    assert not list((tiny / "records").glob("*.tfrecord"))
