"""Stuff maps: stored unchanged, without their palette, drawn from panoptic segments, or rejected by name."""

import json
import os
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from pipelines import panoptic, stuff
from pipelines.checks import IMAGE_REASONS, Counters, Rejected

HEIGHT, WIDTH = 24, 36
# Segment number -> label, also above 255 and 65,535, where all three colors matter.
SEGMENTS = {5: 0, 300: 168, 70_000: 91, 0xFFFFFF: 0}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "maps"
    root.mkdir()
    return root


def gradient(mode="RGB", height=HEIGHT, width=WIDTH):
    """A gradient."""
    rows, columns = np.mgrid[:height, :width]
    return PIL.Image.fromarray((rows * 7 + columns).astype(np.uint8)).convert(mode)


def labels():
    return np.random.RandomState(0).choice(np.uint8([0, 3, 7, 255]), (HEIGHT, WIDTH))


def load_stuff(folder, count=8):
    counters = Counters()
    encoded, largest = stuff.load_map(os.path.realpath(folder), "a.jpg", HEIGHT, WIDTH, count, counters)
    return encoded, largest, dict(counters.counts)


def test_stuff_maps_are_stored_unchanged(folder):
    PIL.Image.fromarray(labels()).save(folder / "a.png")
    assert load_stuff(folder) == ((folder / "a.png").read_bytes(), 7, {})
    assert load_stuff(folder, None)[1] == 7


def test_a_palette_is_removed(folder):
    palette = PIL.Image.fromarray(labels(), "P")
    palette.putpalette(np.random.RandomState(1).randint(0, 255, 768, np.uint8).tobytes())
    palette.save(folder / "a.png")
    encoded, largest, counts = load_stuff(folder)
    assert (largest, counts) == (7, {"stuff_converted": 1})
    np.testing.assert_array_equal(tf.io.decode_png(encoded, channels=1)[..., 0], labels())


def test_a_map_without_labels(folder):
    PIL.Image.new("L", (WIDTH, HEIGHT), 255).save(folder / "a.png")
    assert load_stuff(folder)[1] == -1


def sixteen_shades(path):
    """Writes four bits per pixel, which decoders scale up: label 3 would become 51. Pillow cannot write such a file."""
    gradient("L").save(path)
    content = bytearray(path.read_bytes())
    content[stuff.PNG_BIT_DEPTH] = 4
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def flipped_checksum(path):
    """Damages the checksum of the pixels: Pillow ignores it, training's decoder does not."""
    gradient("L").save(path)
    content = bytearray(path.read_bytes())
    content[-16] ^= 1
    path.write_bytes(content)


BROKEN_STUFF = [
    ("stuff_unreadable", flipped_checksum),
    ("stuff_missing", lambda path: None),
    ("stuff_unreadable", lambda path: path.write_bytes(b"\x89PNG\r\n")),
    ("stuff_unreadable", lambda path: gradient().save(path)),
    ("stuff_unreadable", lambda path: gradient("L").save(path, "JPEG")),
    ("stuff_unreadable", sixteen_shades),
    ("stuff_size_differs", lambda path: gradient("L", height=WIDTH).save(path)),
    ("stuff_label_unknown", lambda path: PIL.Image.new("L", (WIDTH, HEIGHT), 8).save(path)),
]


@pytest.mark.parametrize("reason, make", BROKEN_STUFF)
def test_broken_stuff_maps_are_rejected(folder, reason, make):
    make(folder / "a.png")
    with pytest.raises(Rejected) as error:
        load_stuff(folder)
    assert error.value.reason == reason
    assert reason in IMAGE_REASONS


def numbers():
    """Returns a map of segment numbers, [HEIGHT, WIDTH]; 0 is no segment."""
    return np.random.RandomState(0).choice([0, *SEGMENTS], (HEIGHT, WIDTH))


def save_segments(path, values):
    colors = np.stack([values % 256, values // 256 % 256, values // 65_536], axis=-1).astype(np.uint8)
    PIL.Image.fromarray(colors).save(path, "PNG")


def draw_map(folder, segments=None, labels=183):
    segments = segments or {"file_name": "a.png", "labels": {str(key): label for key, label in SEGMENTS.items()}}
    return stuff.draw_map(os.path.realpath(folder), segments, HEIGHT, WIDTH, labels)


def test_panoptic_segments_become_labels(folder):
    save_segments(folder / "a.png", numbers())
    encoded, largest = draw_map(folder)
    expected = np.vectorize(SEGMENTS.get)(numbers(), 255)
    np.testing.assert_array_equal(tf.io.decode_png(encoded)[..., 0], expected)
    assert largest == 168


BROKEN_SEGMENTS = [
    ("stuff_missing", lambda path: None),
    ("stuff_unreadable", lambda path: gradient("L").save(path, "PNG")),
    ("stuff_unreadable", lambda path: gradient().save(path, "JPEG")),
    ("stuff_size_differs", lambda path: gradient(height=WIDTH).save(path, "PNG")),
    ("stuff_label_unknown", lambda path: save_segments(path, numbers() + 1)),
]


@pytest.mark.parametrize("reason, make", BROKEN_SEGMENTS)
def test_broken_segments_are_rejected(folder, reason, make):
    make(folder / "a.png")
    with pytest.raises(Rejected) as error:
        draw_map(folder)
    assert error.value.reason == reason
    assert "a.png" in error.value.detail


def test_unlisted_images_and_labels_beyond_the_classes(folder):
    save_segments(folder / "a.png", numbers())
    with pytest.raises(Rejected, match="stuff_missing"):
        stuff.draw_map(os.path.realpath(folder), None, HEIGHT, WIDTH, 183)
    with pytest.raises(Rejected, match="stuff_unreadable: listed twice"):
        draw_map(folder, {"error": "listed twice by the panoptic file"})
    with pytest.raises(Rejected, match=r"stuff_label_unknown.*label 168"):
        draw_map(folder, labels=168)


CATEGORIES = [{"id": 1, "name": "person"}, {"id": 92, "name": "banner"}, {"id": 184, "name": "tree-merged"}]


def read_panoptic(folder, annotations, categories=CATEGORIES):
    path = folder / "panoptic.json"
    path.write_text(json.dumps({"annotations": annotations, "categories": categories}))
    return panoptic.read(str(path), Counters())


def test_a_panoptic_file_gives_each_segment_its_stuff_thing_label(folder):
    segments = [{"id": 7, "category_id": 1}, {"id": 8, "category_id": 92}, {"id": 9, "category_id": 184}]
    entry = {"image_id": 3, "file_name": "a.png", "segments_info": segments}
    # person 1, banner 92 and tree 169 of COCO-stuff, less one
    assert read_panoptic(folder, [entry]) == {3: {"file_name": "a.png", "labels": {"7": 0, "8": 91, "9": 168}}}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"file_name": "../a.png"}, "../a.png"),
        ({"file_name": None}, "file_name null"),
        ({"file_name": "\ud800.png"}, "names no file"),
        ({"file_name": "x" * 5000}, "names no file"),
        ({"segments_info": [{"id": 7, "category_id": 1}, {"id": 7, "category_id": 92}]}, "the id 7 twice"),
        ({"segments_info": [{"id": 1 << 40}]}, "segments_info"),
        ({"segments_info": [{"id": "7"}]}, "segments_info"),
        ({"segments_info": [{"id": 7, "category_id": 2}]}, "category_id 2"),
    ],
)
def test_broken_entries_of_a_panoptic_file_are_kept_with_their_error(folder, change, expected):
    entry = {"image_id": 3, "file_name": "a.png", "segments_info": []}
    assert expected in read_panoptic(folder, [entry | change])[3]["error"]
    assert "twice" in read_panoptic(folder, [entry, entry])[3]["error"]


@pytest.mark.parametrize(
    "annotations, categories, expected",
    [
        ([{"file_name": "a.png"}], CATEGORIES, "image_id"),
        ([], CATEGORIES, "'annotations' is empty"),
        ([{"image_id": 1}], [{"id": 256, "name": "last"}], "id 256"),
        ([{"image_id": 1}], [{"id": 0, "name": "first"}], "id 0"),
    ],
)
def test_unusable_panoptic_files(folder, annotations, categories, expected):
    with pytest.raises(UserError, match=expected) as error:
        read_panoptic(folder, annotations, categories)
    assert str(folder / "panoptic.json") in str(error.value)


def test_real_panoptic_maps_are_stuff_thing_maps(coco_sample):
    root = coco_sample / "panoptic"
    entries = panoptic.read(str(root / "annotations" / "panoptic_val2017.json"), Counters())
    assert len(entries) == 3
    for entry in entries.values():
        expected = np.asarray(PIL.Image.open(root / "stuffthingmaps" / "val2017" / entry["file_name"]))
        maps = os.path.realpath(root / "annotations" / "panoptic_val2017")
        encoded, _ = stuff.draw_map(maps, entry, *expected.shape, 183)
        np.testing.assert_array_equal(tf.io.decode_png(encoded)[..., 0], expected)
