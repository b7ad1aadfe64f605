"""VIA's files become objects: every shape, the attribute with the class, all of its files; bad parts are named."""

import csv
import io
import json

import numpy as np
import pytest

from pipelines.checks import Rejected
from pipelines.importers import via
from tests.pipelines.importers.conversion import add_image, convert, draw, iou, masks, star, write


def region(label="dog", attribute="name", name="rect", **shape):
    shape = shape or {"x": 10, "y": 5, "width": 20, "height": 10}
    return {"shape_attributes": {"name": name, **shape}, "region_attributes": {attribute: label}}


def entry(name, *regions):
    return {"filename": name, "size": 100, "regions": list(regions), "file_attributes": {}}


def add(folder, content, name="via.json", images=("a.jpg",)):
    for image in images:
        add_image(folder / image)
    write(folder / name, content if isinstance(content, str) else json.dumps(content))
    return folder / name


def random_regions(rng):
    """Returns [(region, mask)], one of each shape."""
    rows, columns = np.mgrid[:40, :60] + 0.5
    points, (rx, ry), theta = star(rng), rng.uniform(8, 18, 2), rng.uniform(0, np.pi)
    x, y = columns - 30, rows - 20
    along, across = x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)
    polygon = {"all_points_x": points[:, 0].tolist(), "all_points_y": points[:, 1].tolist()}
    return [
        (region("polygon", name="polygon", **polygon), draw([points.ravel().tolist()])),
        (region("rect", x=10, y=5, width=20, height=10), (abs(columns - 20) < 10) & (abs(rows - 10) < 5)),
        (region("circle", name="circle", cx=30, cy=20, r=rx), np.hypot(x, y) < rx),
        (
            region("ellipse", name="ellipse", cx=30, cy=20, rx=rx, ry=ry, theta=theta),
            (along / rx) ** 2 + (across / ry) ** 2 < 1,
        ),
    ]


def as_csv(entries):
    stream = io.StringIO()
    writer = csv.writer(stream)
    head = ("filename", "file_size", "file_attributes", "region_count", "region_id")
    writer.writerow([*head, "region_shape_attributes", "region_attributes"])
    for row in entries:
        for place, found in enumerate(row["regions"] or [{}]):
            parts = [json.dumps(found.get(key, {})) for key in ("shape_attributes", "region_attributes")]
            writer.writerow([row["filename"], row["size"], "{}", len(row["regions"]), place, *parts])
    return stream.getvalue()


FORMS = {
    "project": lambda entries: {"_via_settings": {}, via.METADATA: {f"{e['filename']}100": e for e in entries}},
    "annotations": lambda entries: {f"{e['filename']}100": e for e in entries},
    "list": lambda entries: entries,
    "version 1": lambda entries: {
        e["filename"]: e | {"regions": {str(i): r for i, r in enumerate(e["regions"])}} for e in entries
    },
    "csv": as_csv,
}


@pytest.mark.parametrize("form", FORMS)
def test_random_shapes_have_their_masks(tmp_path, form, capsys):
    rng, folder = np.random.default_rng(2), tmp_path / "in"
    wanted = {f"{number}.jpg": random_regions(rng) for number in range(6)}
    entries = [entry(name, *(found for found, _ in rows)) for name, rows in wanted.items()]
    entries.append(entry("empty.jpg"))
    images = [*wanted, "empty.jpg"]
    add(folder, FORMS[form](entries), "via.csv" if form == "csv" else "via.json", images)
    found, left_out = convert("via", folder, "--val_fraction", "0")
    assert not left_out and "the class of a region is its attribute name" in capsys.readouterr().out
    drawn = masks(found["train"])
    assert drawn["empty.jpg"] == [] and len(drawn) == 7
    for name, rows in wanted.items():
        assert [label for label, _ in drawn[name]] == ["polygon", "rect", "circle", "ellipse"]
        for (label, mask), (_, expected) in zip(drawn[name], rows, strict=True):
            assert iou(mask, expected) > (0.99 if label in ("polygon", "rect") else 0.95), label


def test_the_attribute_of_the_class(tmp_path):
    def label(*attributes):
        rows = [region() | {"region_attributes": row} for row in attributes]
        (found,) = via.read(add(tmp_path, [entry("a.jpg", *rows)]), tmp_path)
        return [row.label for row in found.objects]

    assert label({"color": "red", "Class": " dog "}, {"color": "red"}) == ["dog"]
    assert label({"species": "dog"}) == ["dog"]
    assert label({"type": {"dog": True, "cat": False}}, {"type": {"dog": True, "cat": True}}, {"type": 3}) == [
        "dog",
        "3",
    ]
    with pytest.raises(Rejected, match="color, species: rename"):
        label({"color": "red", "species": "dog"})
    assert label({}) == []


@pytest.mark.parametrize(
    "bad, words",
    [
        (None, "no class"),
        (region(" "), "no class"),
        (region(["dog"]), "no class"),
        (region(name="polyline", all_points_x=[1, 2, 3], all_points_y=[1, 2, 9]), "a polyline has no area"),
        (region(name=["rect"]), "has no area"),
        (region(name="polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]), "not lists of three"),
        (region(name="polygon", all_points_x=[1, 2, "3"], all_points_y=[1, 2, 3]), "not numbers"),
        (region(name="polygon", all_points_x=[1, 2, 1e9], all_points_y=[1, 2, 3]), "far outside"),
        (region(name="circle", cx=1, cy=1, r=float("nan")), "not numbers"),
        (region(name="circle", cx=1, cy=1, r=-3), "above 0"),
        (region(name="circle", cx=1, cy=1), "not numbers"),
        (region(name="ellipse", cx=1, cy=1, rx=3, ry=3, theta="x"), "not numbers"),
        (region(x=1, y=1, width=0, height=3), "above 0"),
        (region(x=100, y=1, width=5, height=3), "from x 100 to 105, y 1 to 4 covers no pixel"),
    ],
)
def test_bad_regions_are_named(tmp_path, bad, words):
    folder = tmp_path / "in"
    add(folder, [entry("a.jpg", bad, region())])
    found, left_out = convert("via", folder, "--val_fraction", "0")
    assert len(found["train"]["annotations"]) == 1 == len(left_out)
    assert left_out[0].startswith(f"{folder}/via.json: a.jpg: regions[0]: ") and words in left_out[0]


def test_bad_images_are_named_and_the_others_kept(tmp_path):
    folder = tmp_path / "in"
    add_image(tmp_path / "b.jpg")
    bad = [entry("no.jpg"), entry("../b.jpg"), entry(None), entry("a.jpg"), entry("x.jpg") | {"regions": 3}]
    write(folder / "text.jpg", "no image")
    add(folder, [entry("a.jpg", region()), *bad, entry("text.jpg")])
    found, left_out = convert("via", folder, "--val_fraction", "0")
    assert [image["file_name"] for image in found["train"]["images"]] == ["a.jpg"]
    words = ("is missing", "outside", "not the name", "another entry", "neither a list", "cannot be read")
    for place, word in enumerate(words):
        assert word in left_out[place]


@pytest.mark.parametrize("form", ["project", "annotations", "list"])
@pytest.mark.parametrize(
    "bad, words",
    [
        (3, "the entry is 3, not an object"),
        ({"filename": "b.jpg"}, "it has no regions"),
        ({"regions": []}, "filename is null"),
        ({"filename": "b.jpg", "regions": ""}, 'regions is "", neither a list nor an object'),
        ({"filename": "b.jpg", "regions": None}, "regions is null, neither"),
        ({"filename": "b.jpg", "regions": "x"}, "regions is x, neither"),
        ({"filename": "b.jpg", "regions": False}, "regions is false, neither"),
    ],
)
def test_an_entry_without_regions_leaves_the_others(tmp_path, form, bad, words):
    rows = {"a": entry("a.jpg", region()), "b": bad, "c": entry("c.jpg", region("cat"))}
    content = {"project": {via.METADATA: rows}, "annotations": rows, "list": list(rows.values())}[form]
    found = list(via.read(add(tmp_path, content, images=("a.jpg", "b.jpg", "c.jpg")), tmp_path))
    assert [image.objects[0].label for image in (found[0], found[2])] == ["dog", "cat"]
    assert found[1].detail.startswith(f"{'[1]' if form == 'list' else 'b'}: {words}")


def test_a_project_is_one_whatever_it_holds(tmp_path):
    """The reason for an entry is not that the file is of another tool."""
    (found,) = via.read(add(tmp_path, {via.METADATA: {"a": {"filename": "a.jpg"}}}), tmp_path)
    assert found.detail == "a: it has no regions"
    assert not list(via.read(add(tmp_path, {via.METADATA: {}}), tmp_path))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("x.json", "[]", "not a file of VIA"),
        ("x.json", '{"images": [], "annotations": []}', "not a file of VIA"),
        ("x.json", '{"_via_img_metadata": 3}', "not a file of VIA"),
        ("x.json", '{"a": {"regions": []}, "b": {"filename": "b.jpg"}}', "not a file of VIA"),
        ("x.json", "[" * 100_000, "JSON"),
        ("x.csv", "a,b\n1,2\n", "no columns"),
        ("x.csv", "", "no columns"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, words):
    with pytest.raises(Rejected, match=words):
        list(via.read(add(tmp_path, text, name), tmp_path))


def test_a_short_row_of_a_table_is_named(tmp_path):
    text = as_csv([entry("a.jpg", region())]) + "a.jpg,1\na.jpg,1,{},1,1,{broken,{}\n"
    (found,) = via.read(add(tmp_path, text, "x.csv"), tmp_path)
    assert len(found.objects) == 1 and len(found.problems) == 2
