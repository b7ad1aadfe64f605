"""LVIS as it is published: names from URLs, no iscrowd, and the lists and frequencies that its evaluation needs."""

import json

from htc_tf.data.datasets import load_info
from pipelines import lvis, merging
from pipelines.checks import Counters
from tests.pipelines.tiny_coco import edit, prepare, records


def as_lvis(content):
    """Changes the tiny dataset to the layout of lvis_v1_val.json, whose images are in two folders."""
    for number, row in enumerate(content["images"]):
        name = row.pop("file_name")
        row["coco_url"] = f"http://images.cocodataset.org/{'train' if number < 4 else 'val'}2017/{name}"
        row |= {"not_exhaustive_category_ids": [9] if number == 2 else [], "neg_category_ids": [2, 9][:number]}
    for row in content["annotations"]:
        del row["iscrowd"]
    for row, frequency in zip(content["categories"], "rf", strict=True):
        row |= {"synset": "a.n.01", "synonyms": [row["name"]], "frequency": frequency, "def": "", "image_count": 3}


def test_lvis_as_published(tiny):
    for number in range(7):
        folder = tiny / "images" / ("train2017" if number < 4 else "val2017")
        folder.mkdir(exist_ok=True)
        (tiny / "images" / f"{number:03d}.jpg").rename(folder / f"{number:03d}.jpg")
    info = prepare(edit(tiny, as_lvis), shards=2)
    assert (info.images, info.objects, info.crowd) == (7, 21, 0)
    assert {record.image.filename.partition("/")[0] for record in records(info)} == {"train2017", "val2017"}
    side = json.loads((tiny / "records" / lvis.FILE).read_text())
    assert side["categories"] == [{"id": 2, "frequency": "f"}, {"id": 9, "frequency": "r"}]
    assert side["images"][:3] == [
        {"id": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []},
        {"id": 101, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
        {"id": 102, "neg_category_ids": [2, 9], "not_exhaustive_category_ids": [9]},
    ]
    assert [row["id"] for row in side["images"]] == list(range(100, 107))
    assert not (tiny / "records" / "annotations.json").exists()
    path = tiny / "records" / lvis.FILE
    before = path.read_bytes()
    path.write_bytes(before[:-20])
    prepare(tiny, shards=2)
    assert path.read_bytes() == before


def test_other_datasets_have_no_such_file(tiny):
    prepare(tiny)
    assert not (tiny / "records" / lvis.FILE).exists()


def test_odd_lists_are_counted():
    classes = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    values = [[1, "2", 2.0, 3, None, {}, True], "text", None, [], {"1": 2}]
    images = [{"id": number, "neg_category_ids": value} for number, value in enumerate(values)]
    counters = Counters()
    found = lvis.collect(
        [*images, None, {"id": [], "neg_category_ids": []}],
        [5, {"name": "a", "frequency": {}}],
        range(5),
        classes,
        counters,
    )
    assert [row["neg_category_ids"] for row in found["images"]] == [[1, 2], [], [], [], []]
    assert found["categories"] == []
    assert counters.counts["lvis_ids_dropped"] == 4 + 1 + 1


def test_the_lists_of_an_image_in_two_files_are_united():
    def content(image_id, categories, **lists):
        image = {"id": image_id, "file_name": "a.jpg", "height": 4, "width": 4, **lists}
        named = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
        return {"images": [image], "annotations": [], "categories": named}

    first = content(1, "ab", neg_category_ids=[1], not_exhaustive_category_ids="text")
    second = content(5, "bc", neg_category_ids=[1.0, 2], not_exhaustive_category_ids=[1])
    third = content(7, "a")
    merged, _ = merging.merge([first, second, third], list("xyz"), ["images"] * 3, Counters())
    (row,) = merged["images"]
    names = {entry["id"]: entry["name"] for entry in merged["categories"]}
    assert [names[number] for number in row["neg_category_ids"]] == ["a", "b", "c"]
    assert [names[number] for number in row["not_exhaustive_category_ids"]] == ["b"]


def test_unusable_images_are_absent(tiny):
    def change(content):
        as_lvis(content)
        content["images"][0]["height"] = None

    info = prepare(edit(tiny, change))
    assert info == load_info(tiny / "records") and info.images == 6
    assert len(json.loads((tiny / "records" / lvis.FILE).read_text())["images"]) == 6
