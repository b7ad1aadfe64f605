"""Demo dataset: masks, semantic maps and annotations match the drawn pixels exactly, and its bytes are reproducible."""

import contextlib
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pipelines import scenes, shapes, surfaces


def run(monkeypatch, *flags):
    monkeypatch.setattr("sys.argv", ["shapes", *map(str, flags)])
    shapes.main()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def population(index):
    return scenes.draw_population(shapes.stream(0, "train2017", index))


@pytest.fixture(scope="module")
def drawn():
    """The first forty scenes, and the first one with a crowd, by index."""
    crowded = next(index for index in range(1000) if population(index)[1])
    return {index: shapes.make_scene(0, "train2017", index) for index in [*range(40), crowded]}


# First digits of the SHA-256 of a scene's pixels, semantic map and masks. In one scene of fifty, none of these, a value
# of the image depends on the processor's vector instructions, with which NumPy computes float32 sines.
GOLDEN = {
    0: "bb3b5091195fdd6b",
    1: "7e4e91629fc280e1",
    4: "d3fc02bd29bcb69b",
    10: "3d9f5f5718e137a9",
    11: "1cb68d0725118f0b",
    13: "1c79cb5c772d48bd",
}


@pytest.mark.parametrize("index", GOLDEN)
def test_numpy_1_and_2_draw_the_same_scenes(drawn, index):
    scene = drawn[index]
    arrays = [scene.image, scene.semantic, *(array for thing in scene.things for array in (thing.mask, thing.whole))]
    assert hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16] == GOLDEN[index]


def test_surfaces_and_outlines_are_float32():
    """In NumPy 2 a float64 scalar makes a float64 array of a float32 array, and so other pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :20].astype(np.float32)
    arrays = {name: surfaces.draw_texture(rng, name, y, x, 9.0) for name in (None, *surfaces.TEXTURES)}
    arrays |= {name: shape(rng, x / 16, y / 16) for name, shape in scenes.SHAPES.items()}
    arrays["ground"] = scenes.draw_ground(rng, 30, 40)[0]
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(arrays, np.float32)


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path, monkeypatch):
    for name, flags in {"one": (), "two": ("--workers", 2), "other": ("--seed", 8)}.items():
        run(monkeypatch, "--output", tmp_path / name, "--train", 5, "--val", 2, "--seed", 7, "--workers", 1, *flags)
    one = contents(tmp_path / "one")
    assert len(one) == 2 + 2 * 7
    assert one == contents(tmp_path / "two")
    other = contents(tmp_path / "other")
    assert one.keys() == other.keys() and not any(one[name] == other[name] for name in one)


def test_scenes_of_chosen_classes(tmp_path, monkeypatch):
    flags = ("--train", 8, "--val", 0, "--workers", 1, "--classes", "ring", "square")
    run(monkeypatch, "--output", tmp_path, *flags)
    data = json.loads((tmp_path / "annotations" / "instances_train2017.json").read_text())
    assert [(category["id"], category["name"]) for category in data["categories"]] == [(2, "square"), (5, "ring")]
    assert {annotation["category_id"] for annotation in data["annotations"]} == {2, 5}
    maps = [np.asarray(Image.open(path)) for path in (tmp_path / "stuffthingmaps").rglob("*.png")]
    labels = set(np.concatenate([drawn.ravel() for drawn in maps]).tolist())
    assert labels & set(scenes.LABELS) == {1, 4} and labels & set(range(8, 13))


def test_layout_loads_as_coco_and_matches_the_scenes(tmp_path, monkeypatch, drawn):
    run(monkeypatch, "--output", tmp_path, "--train", 12, "--val", 0, "--workers", 1)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "annotations" / "instances_train2017.json")
    assert not (tmp_path / "val2017").exists()
    assert [category["name"] for category in coco.loadCats(range(1, 9))] == list(scenes.THINGS)
    assert len(coco.anns) == len(coco.dataset["annotations"]) > 20
    for index, (key, image) in enumerate(sorted(coco.imgs.items())):
        scene = drawn[index]
        found = Image.open(tmp_path / "train2017" / image["file_name"])
        assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (image["width"], image["height"]))
        assert np.abs(np.asarray(found).astype(float) - scene.image).mean() < 3
        stuff = np.asarray(Image.open(tmp_path / "stuffthingmaps/train2017" / image["file_name"].replace("jpg", "png")))
        np.testing.assert_array_equal(stuff, scene.semantic)
        annotations = coco.loadAnns(coco.getAnnIds(key))
        assert [a["category_id"] - 1 for a in annotations] == [thing.label for thing in scene.things]
        for annotation, thing in zip(annotations, scene.things, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), thing.mask)


def test_every_mask_survives_in_the_form_that_coco_uses_for_its_kind(drawn):
    kinds = set()
    for scene in drawn.values():
        height, width = scene.semantic.shape
        for thing in scene.things:
            annotation = shapes.annotate(thing, image=3, place=4)
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                kinds.add("polygons")
                encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation["counts"], list):
                kinds.add("crowd")
                assert thing.crowd
                encoded = coco_mask.frPyObjects(segmentation, height, width)
            else:
                kinds.add("holes")
                encoded = segmentation
            np.testing.assert_array_equal(coco_mask.decode(encoded), thing.mask)
            y, x = np.nonzero(thing.mask)
            assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert (annotation["area"], annotation["iscrowd"]) == (len(y), thing.crowd)
            assert annotation["id"] == 3 * shapes.IDS_PER_IMAGE + 4
            json.dumps(annotation)
    assert kinds == {"polygons", "crowd", "holes"}


def test_the_stuff_map_agrees_with_the_masks(drawn):
    labels = set()
    for scene in drawn.values():
        seen = np.zeros(scene.semantic.shape, int)
        for thing in scene.things:
            seen += thing.mask
            assert (scene.semantic[thing.mask] == thing.label).all()
        assert seen.max(initial=0) <= 1
        ground = scene.semantic[seen == 0]
        assert ((ground >= 8) & (ground <= 12) | (ground == 255)).all()
        assert len(np.unique(ground[ground < 255])) >= 1
        labels |= set(np.unique(scene.semantic))
    assert labels == {*range(13), 255}
    unlabeled = np.mean([np.mean(scene.semantic == 255) for scene in drawn.values()])
    assert 0.005 < unlabeled < 0.1


def test_visibility_and_size_of_things(drawn):
    shares = []
    for scene in drawn.values():
        assert all(144 <= side <= 192 for side in scene.semantic.shape)
        assert sum(not thing.crowd for thing in scene.things) <= 8
        for thing in scene.things:
            assert not (thing.mask & ~thing.whole).any()
            shares.append(thing.mask.sum() / thing.whole.sum())
            assert thing.mask.sum() >= scenes.MIN_PIXELS
            if not thing.crowd:
                assert all(np.ptp(places) + 1 <= 111 for places in np.nonzero(thing.whole))
    assert min(shares) >= 0.35
    assert 0.1 < np.mean(np.array(shares) < 1) < 0.6, "some things, not all, hide others"


def test_shares_of_empty_and_crowded_images():
    populations = [population(index) for index in range(4000)]
    counts = np.array([count for count, _ in populations])
    assert abs(np.mean(counts == 0) - 0.03) < 0.01
    assert abs(np.mean([crowd for _, crowd in populations]) - 0.03) < 0.01
    assert not any(crowd for count, crowd in populations if count == 0)
    assert all(abs(np.mean(counts == count) - 0.97 / 8) < 0.03 for count in range(1, 9))


def test_a_scene_without_things_is_only_ground():
    index = next(index for index in range(1000) if population(index)[0] == 0)
    scene = shapes.make_scene(0, "train2017", index)
    assert scene.things == [] and not (scene.semantic < 8).any()


@pytest.mark.parametrize(
    "name, area",
    {"circle": np.pi, "square": 2, "triangle": 27**0.5 / 4, "hexagon": 27**0.5 / 2}.items(),
)
def test_outlines_fill_their_part_of_the_unit_circle(name, area):
    v, u = (np.mgrid[:600, :600] + 0.5) / 300 - 1
    assert np.mean(scenes.SHAPES[name](None, u, v) <= 0) * 4 == pytest.approx(area, rel=5e-3)


@pytest.mark.parametrize("name", scenes.THINGS)
def test_outlines_are_supersampled_and_reach_their_diameter(name):
    outlines = [scenes.draw_outline(np.random.default_rng(seed), name, 40) for seed in range(10)]
    spans = [1 + max(map(np.ptp, np.nonzero(outline))) for outline in outlines]
    assert max(spans) <= 42 and np.mean(spans) > 30
    for outline in outlines:
        assert outline.min() == 0 and outline.max() == 1
        assert ((outline > 0) & (outline < 1)).sum() > 40, "a blended edge"


@pytest.mark.parametrize("name", [None, *surfaces.TEXTURES])
def test_textures_are_shares(name):
    y, x = np.mgrid[:40, :60].astype(np.float32)
    texture = surfaces.draw_texture(np.random.default_rng(0), name, y, x, 9)
    assert texture.shape == (40, 60) and texture.min() >= 0 and texture.max() <= 1
    assert (texture.std() > 0.1) == (name is not None)


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["1"], [[0, 0, 1, 0, 1, 1, 0, 1]]),
        (["10", "11"], [[0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 0, 2]]),
        (["10", "01"], [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]),
        (["01", "10"], [[1, 0, 2, 0, 2, 1, 1, 1], [0, 1, 1, 1, 1, 2, 0, 2]]),
        (["111", "101", "111"], None),
        (["000"], []),
    ],
)
def test_polygons_follow_the_pixel_edges(rows, expected):
    assert shapes.polygons(np.array([list(row) for row in rows], np.uint8)) == expected


def test_polygons_reproduce_any_mask_without_holes():
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(500):
        mask = np.asfortranarray(rng.random(rng.integers(1, 9, 2)) < rng.uniform(0.2, 0.8), np.uint8)
        polygons = shapes.polygons(mask)
        assert (polygons is None) == has_hole(mask)
        if polygons:
            encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))
            np.testing.assert_array_equal(coco_mask.decode(encoded), mask)
            compared += 1
    assert compared > 100


def has_hole(mask):
    """Grows the outside, over corners too, until it no longer changes."""
    free = np.pad(mask, 1) == 0
    outside, grown = None, np.zeros_like(free)
    grown[0, 0] = True
    while outside is None or (grown != outside).any():
        outside = grown
        padded = np.pad(outside, 1)
        around = [padded[i : i + free.shape[0], j : j + free.shape[1]] for i in range(3) for j in range(3)]
        grown = np.logical_or.reduce(around) & free
    return bool((free & ~outside).any())


def test_runs_go_down_the_columns_zeros_first():
    assert shapes.uncompressed_rle(np.array([[0, 1], [1, 1]]))["counts"] == [1, 3]
    assert shapes.uncompressed_rle(np.array([[1, 0], [1, 0]])) == {"size": [2, 2], "counts": [0, 2, 2]}


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--train", "-1"], "--train: -1"),
        (["--val", "-2"], "--val: -2"),
        (["--seed", "-3"], "--seed: -3"),
        (["--workers", "0"], "--workers: 0"),
        (["--train", "0", "--val", "0"], "--train 0 --val 0"),
        (["--train", "1000000"], "--train 1000000"),
    ],
)
def test_bad_flags_are_named_before_anything_is_written(flags, named, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--output", tmp_path / "new", *flags)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and named in message and message.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_output_that_is_a_file_or_holds_another_data_set_is_refused(tmp_path, monkeypatch, capsys):
    strangers = ["file", "images/val2017/000000000139.jpg", "labels/annotations/instances_train2017.json"]
    for stranger in strangers:
        (tmp_path / stranger).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stranger).write_text("mine")
    before = contents(tmp_path)
    for stranger in strangers:
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, "--output", tmp_path / stranger.split("/")[0], "--train", 1, "--val", 1, "--workers", 1)
        assert stop.value.code == 2
        assert str(tmp_path / stranger) in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_run_over_its_own_output_gives_the_same_bytes(tmp_path, monkeypatch):
    run(monkeypatch, "--output", tmp_path, "--train", 2, "--val", 1, "--workers", 1)
    first = contents(tmp_path)
    run(monkeypatch, "--output", tmp_path, "--train", 2, "--val", 1, "--workers", 1)
    assert contents(tmp_path) == first
