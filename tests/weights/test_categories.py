"""Classes of a converted run: from annotation files, which are read as elsewhere, from checkpoints, or COCO's."""

import gzip
import json

import pytest

from htc_tf.data.coco_classes import THING_NAMES
from htc_tf.errors import UserError
from htc_tf.weights import conversion


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"id": 1, "name": "a"}, {"id": "b", "name": "c"}], "an id is not a whole number"),
        ([{"id": True, "name": "a"}, {"id": 2, "name": "c"}], "an id is not a whole number"),
        ([{"id": 1, "name": None}, {"id": 2, "name": "c"}], "a name is not a string"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "c"}], "an id occurs twice"),
        ([{"id": [], "name": "a"}], "unhashable"),
        (3, "not iterable"),
    ],
)
def test_categories_of_other_types_are_refused(tmp_path, rows, reason):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"categories": rows}))
    with pytest.raises(UserError, match=rf"^--annotations {path} is not a COCO annotation file \(.*{reason}"):
        conversion.read_categories(path, 2)


def test_deeply_nested_annotations_are_refused(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=rf"^--annotations {path} is nested too deeply"):
        conversion.read_categories(path, 2)


ROWS = [{"id": 2, "name": "b"}, {"id": 1, "name": "ä"}]


@pytest.mark.parametrize(
    ("content", "repair"),
    [
        (json.dumps({"categories": ROWS}).encode(), ""),
        (gzip.compress(json.dumps({"categories": ROWS}).encode()), "compressed with gzip"),
        (json.dumps({"categories": ROWS}, ensure_ascii=False).encode("utf-16"), "UTF-16"),
        (json.dumps({"categories": [{**row, "id": str(row["id"])} for row in ROWS]}).encode(), "2 repairs: an id"),
        (json.dumps({"categories": {row["id"]: {"name": row["name"]} for row in ROWS}}).encode(), "a dict by id"),
    ],
    ids=["plain", "gzip", "UTF-16", "strings", "dict"],
)
def test_annotations_are_read_as_by_preparation_and_evaluation(tmp_path, content, repair, capsys):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    assert conversion.read_categories(path, 2) == [{"id": 1, "name": "ä"}, {"id": 2, "name": "b"}]
    err = capsys.readouterr().err
    assert repair in err and (err.startswith(f"{path}: ") if repair else not err)


def test_names_of_classes():
    assert conversion.name_categories(["b", "a"], 2) == [{"id": 1, "name": "b"}, {"id": 2, "name": "a"}]
    categories = conversion.name_categories(None, 80)
    assert categories == conversion.name_categories(list(THING_NAMES.values()), 80)
    assert [row["id"] for row in categories] == sorted(THING_NAMES) and len(THING_NAMES) == 80
    assert categories[0] == {"id": 1, "name": "person"} and categories[-1] == {"id": 90, "name": "toothbrush"}


def test_the_classes_of_coco_match_its_annotations(coco_sample):
    file = coco_sample / "annotations" / "instances_val2017.json"
    assert conversion.name_categories(None, 80) == conversion.read_categories(file, 80)
