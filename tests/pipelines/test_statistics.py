"""Dataset statistics: every object is counted once, in the right bin."""

from collections import Counter

import pytest

from htc_tf.data import record_walk, schema, shard_index
from htc_tf.data.datasets import Category, DatasetInfo, Stuff
from pipelines.statistics import Statistics, describe

HEIGHT, WIDTH = 400, 800


def record(*boxes, areas=None, crowd=0):
    """Boxes are (width, height) in pixels."""
    objects = [
        schema.Object(index, 0, 0, height / HEIGHT, width / WIDTH, 3, "cat", crowd, area or width * height)
        for index, ((width, height), area) in enumerate(zip(boxes, areas or [None] * len(boxes), strict=True))
    ]
    return schema.Record(schema.Image(b"", "jpeg", HEIGHT, WIDTH, "a.jpg", 1), tuple(objects))


def count(*records):
    statistics = Statistics()
    statistics.add(shard_index.make(record_walk.numbers_of(100, item.image, item.objects) for item in records))
    return statistics


@pytest.mark.parametrize(
    "side, expected", [(7, 0), (8, 8), (31, 16), (32, 32), (100, 64), (256, 256), (400, 256), (1e-3, 0)]
)
def test_sides(side, expected):
    assert count(record((side, side))).sides == {expected: 1}


@pytest.mark.parametrize(
    "box, expected",
    [
        ((10, 50), "taller than 1:4"),
        ((10, 30), "1:4 to 1:2"),
        ((30, 50), "1:2 to 2:3"),
        ((20, 20), "2:3 to 3:2"),
        ((80, 50), "3:2 to 2:1"),
        ((30, 10), "2:1 to 4:1"),
        ((800, 0), "wider than 4:1"),
    ],
)
def test_aspects(box, expected):
    assert count(record(box, areas=[1])).aspects == {expected: 1}


def test_areas_are_those_in_the_records():
    statistics = count(record(*[(50, 50)] * 3, areas=[1023.5, 1024, 9216]))
    assert statistics.areas == {"small, below 32²": 1, "medium, below 96²": 1, "large": 1}


def test_a_crowd_region_has_neither_size_nor_shape():
    statistics = count(record((10, 10), crowd=1), record())
    assert (statistics.images, statistics.objects, statistics.crowd) == (2, 1, 1)
    assert not statistics.sides and not statistics.aspects and not statistics.areas
    assert statistics.per_image == {0: 1, 1: 1}


def test_numbers_of_a_hostile_record_are_counted():
    image = schema.Image(b"", "jpeg", HEIGHT, WIDTH, "a.jpg", 1)
    nan, inf = float("nan"), float("inf")
    rows = (0, 0, nan, 1, nan), (0.5, 0, 0, 1, -1), (0, 0, inf, 1, inf)
    objects = tuple(schema.Object(1, *row[:4], 77, "?", 0, row[4]) for row in rows)
    statistics = count(schema.Record(image, objects))
    totals = statistics.areas.total(), statistics.sides.total(), statistics.aspects.total()
    assert totals == (3, 3, 3)
    info = DatasetInfo("there", (Category(3, "cat"),), Stuff(False, 0), True, 1, 3, 0, ())
    assert any(line.split()[:2] == ["77", "3"] for line in describe(info, statistics).splitlines())


def test_description():
    info = DatasetInfo("there", (Category(3, "cat"),), Stuff(False, 0), True, 2, 3, 0, (), options={"masks": "png"})
    lines = describe(info, count(record((10, 10), (20, 10)), record((600, 200)))).splitlines()
    assert "masks, and PNGs of them for Model Garden; no stuff maps" in lines
    rows = [row.rstrip("█ ").rsplit(maxsplit=1) for row in lines if row.startswith("  ")]
    counts = {name.strip(): int(number) for name, number in rows}
    assert (counts["1"], counts["2 to 3"]) == (1, 1)
    assert (counts["8 to 15"], counts["256 to 511"]) == (2, 1)
    assert (counts["small, below 32²"], counts["large"]) == (2, 1)
    assert (counts["2:3 to 3:2"], counts["2:1 to 4:1"]) == (1, 2)
    assert counts["cat"] == 3


def test_classes_of_one_name_are_counted_apart():
    long = "w" * 30
    categories = tuple(
        Category(number, name) for number, name in enumerate(("car", "car", "cat", "cat", "dog", long, long), 1)
    )
    statistics = Statistics(images=1, classes=Counter({1: 9, 2: 3, 5: 2, 6: 1, 7: 1}))
    lines = describe(DatasetInfo("there", categories, Stuff(False, 0), True, 1, 16, 0, ()), statistics).splitlines()
    rows = [line.rstrip("█ ").split() for line in lines[lines.index("objects per class") + 1 : -1]]
    cut = "w" * 14 + "…"
    assert rows[:3] == [["car", "(1)", "9"], ["car", "(2)", "3"], ["dog", "2"]]
    assert rows[3:] == [[cut, "(6)", "1"], [cut, "(7)", "1"]]
    assert lines[-1] == "without an object: cat (3), cat (4)"


def test_names_of_classes_are_one_line():
    categories = Category(3, "a\n\x1b[31mb"), Category(4, "w" * 10_000), Category(5, "x\r" * 500)
    info = DatasetInfo("there", categories, Stuff(False, 0), True, 2, 3, 0, ())
    lines = describe(info, count(record((10, 10)))).split("\n")
    assert all(line.isprintable() for line in lines) and max(map(len, lines)) < 120
    assert any(line.startswith("  a [31mb      ") for line in lines)
