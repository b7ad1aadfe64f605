"""Annotation files of other tools: entries with one interpretation are repaired, all others stay unchanged."""

import gzip
import io
import json
from collections import Counter

import numpy as np
import pytest

from htc_tf.data import annotations
from htc_tf.errors import UserError

POLYGON = [1, 2, 3, 4, 5, 6]
RUNS = {"size": [2, 3], "counts": [6]}


def repaired(**content):
    repairs = Counter()
    annotations.repair(content, repairs)
    return content, dict(repairs)


@pytest.mark.parametrize(
    "value, number",
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (" 0007 ", 7),
        ("-7", -7),
        ("7.0", 7),
        (2**80, 2**80),
        (True, None),
        (7.5, None),
        ("7.5", None),
        (float("nan"), None),
        (float("inf"), None),
        (2.0**60, None),  # a float that may have been another integer
        ("", None),
        ("x7", None),
        ("²", None),
        ("٣", None),
        ("9" * 31, None),
        (None, None),
        ([7], None),
    ],
)
def test_integers(value, number):
    found = annotations.as_integer(value)
    assert found == number and type(found) is type(number)


def test_ids_and_sizes_become_integers():
    image = {"id": "4", "height": 2.0, "width": "3", "file_name": "4"}
    row = {"id": 1.0, "image_id": "4", "category_id": "x", "iscrowd": False}
    content, repairs = repaired(images=[image], annotations=[row, None, 5], categories=[{"id": "1", "name": "1"}])
    assert content["images"] == [{"id": 4, "height": 2, "width": 3, "file_name": "4"}]
    assert content["annotations"] == [{"id": 1, "image_id": 4, "category_id": "x", "iscrowd": False}, None, 5]
    assert content["categories"] == [{"id": 1, "name": "1"}]
    assert repairs == {"numbers_converted": 6}


@pytest.mark.parametrize(
    "written, read, repair",
    [
        ([POLYGON], [POLYGON], None),
        (POLYGON, [POLYGON], "polygons_nested"),
        ([1, 2, 3, 4], [1, 2, 3, 4], None),
        (RUNS, RUNS, None),
        (RUNS | {"size": [2.0, "3"]}, RUNS, "numbers_converted"),
        (RUNS | {"size": [2.5, 3]}, RUNS | {"size": [2.5, 3]}, None),
        (RUNS | {"size": None}, RUNS | {"size": None}, None),
        ([RUNS], RUNS, "run_lengths_unwrapped"),
        ([RUNS, RUNS], [RUNS, RUNS], None),
        ({"counts": "b'0\\\\\\\\1'"}, {"counts": "0\\\\1"}, "run_lengths_unwrapped"),
        ([], [], None),
        (None, None, None),
        ("text", "text", None),
    ],
)
def test_segmentations(written, read, repair):
    content, repairs = repaired(annotations=[{"segmentation": written}])
    assert repr(content["annotations"]) == repr([{"segmentation": read}])  # 2.0 is no 2
    assert repairs == ({repair: 1} if repair else {})


def test_run_lengths_whose_sum_overflows_are_invalid():
    """Their sum is 2^64 + 100: in 64 bits, they fill 10 x 10 pixels, and pycocotools writes beyond its memory."""
    step, most = 2**33, 65_000  # differences fit into 7 characters
    ramp = [*range(1, most + 1)]
    hold, rest = divmod(2**64 // step - sum(ramp), most)
    runs = [step * number for number in sorted([*ramp, rest]) + [most] * hold]
    runs[-1] += 2**64 + 100 - sum(runs)
    differences = np.diff(runs, prepend=0).tolist()
    # Masks' runs alone: those of the background between them are 0, as their differences.
    counts = "".join("0" + write(number) for number in differences)
    decoded = annotations.decode_counts(counts)
    assert decoded[1::2].tolist() == runs and not decoded[::2].any() and int(decoded.sum()) == 100
    assert annotations.count_pixels(counts) is None
    assert annotations.count_pixels("04") == 4


def write(number):
    """Writes a number as COCO's compressed run lengths."""
    text = ""
    while True:
        bits, number = number & 31, number >> 5
        if number == -(bits >> 4):  # the rest is the sign
            return text + chr(48 + bits)
        text += chr(48 + 32 + bits)


def test_a_dict_by_id_becomes_a_list():
    content, repairs = repaired(annotations={"3": {"image_id": 1}, "4": {"id": 9}}, images={"a": 1}, categories={})
    assert content["annotations"] == [{"id": 3, "image_id": 1}, {"id": 9}]
    assert content["images"] == {"a": 1} and content["categories"] == {}
    assert repairs == {"lists_from_dicts": 1, "numbers_converted": 1}


@pytest.mark.parametrize("box", [None, [], (), [0, 0, 0, 0], [0.0, 0, 0, -0.0], np.zeros(4)])
def test_a_box_is_lacking(box):
    assert annotations.lacks_box({"bbox": box}) and annotations.lacks_box({})


@pytest.mark.parametrize(
    "box", [[1, 2, 3, 4], np.ones(4), [0, 0], [None] * 4, [[]] * 4, "", 0, False, {}, [0, 0, 0, 1e-9]]
)
def test_a_box_is_there_or_malformed(box):
    assert not annotations.lacks_box({"bbox": box})


def load(data):
    repairs = Counter()
    return annotations.load(io.BytesIO(data), "a.json", repairs), dict(repairs)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(encoding):
    content = {"name": "Nüsse 细胞 🥜"}
    repairs = {} if encoding == "utf-8" else {"file_recoded": 1}
    assert load(json.dumps(content, ensure_ascii=False).encode(encoding)) == (content, repairs)


@pytest.mark.parametrize("start", annotations.OTHER_FILES)
def test_other_files_are_named(start):
    data = start + b"\0" * 50
    with pytest.raises(UserError, match=r"^a\.json is ") as error:
        load(gzip.compress(data) if start == annotations.GZIP else data)
    assert annotations.OTHER_FILES[start] in str(error.value)


def test_gzip_is_unpacked_whatever_the_name_and_the_encoding():
    data = gzip.compress(json.dumps({"a": 1}).encode("utf-16"))
    assert load(data) == ({"a": 1}, {"file_unpacked": 1, "file_recoded": 1})
    halves = gzip.compress(b'{"a":') + gzip.compress(b" 1}")  # as `cat a.gz b.gz` and pigz write it
    assert load(halves)[0] == {"a": 1}


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda data: data[:-12], "ends in the middle of its gzip data"),
        (lambda data: data[:-8] + b"\0\0\0\0" + data[-4:], "is damaged gzip data"),
        (lambda data: data[:15] + b"\xff\xff" + data[17:], "is damaged gzip data"),
    ],
)
def test_damaged_gzip(spoil, expected):
    data = gzip.compress(json.dumps({"a": list(range(99))}).encode())
    with pytest.raises(UserError, match=expected):
        load(spoil(data))


def test_a_small_file_cannot_unpack_to_fill_the_memory(monkeypatch):
    monkeypatch.setattr(annotations, "MIN_UNPACKED", 100_000)
    spaces = b" " * 99_000 + b"[1]"
    assert load(gzip.compress(spaces))[0] == [1]
    with pytest.raises(UserError, match="unpacks to more than 100,000 bytes"):
        load(gzip.compress(spaces + b" " * 1_000))


@pytest.mark.parametrize("end", range(1, 40))
def test_every_cut_is_called_a_cut(end):
    text = json.dumps({"images": [{"id": 1, "name": "}]"}, [2.5, True]]})
    with pytest.raises(UserError, match="it was cut"):
        load(text[: min(end, len(text) - 1)].encode())
