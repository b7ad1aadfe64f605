"""The record walk refuses damage in words; `test_shard_index` compares what it reads with the parsed records."""

import struct

import pytest

from htc_tf.data import schema
from htc_tf.data.record_walk import Damaged, walk

IMAGE = schema.Image(b"image", "png", 3, 4, "a.png", 5)
ITEM = schema.Object(1, 0, 0.25, 0.5, 1, 3, "cat", 0, 12.5)


def frame(record, length=None):
    return struct.pack("<Q", len(record) if length is None else length) + b"\0" * 4 + record + b"\0" * 4


def field(content, length=None):
    """Returns a field number 1 of content, or one that states another length."""
    length = len(content) if length is None else length
    assert length < 128
    return b"\x0a" + bytes([length]) + content


def test_one_record():
    (numbers,) = walk(frame(record := schema.example(IMAGE, [ITEM])))
    assert numbers == (len(record), 5, 3, 4, [3], [0], [12.5], [[0], [0.25], [0.5], [1]])
    assert not list(walk(b""))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (frame(b"\x0a" + b"\xff" * 100_000), "more than 63 bits"),
        (frame(schema.example(IMAGE, []))[:-1], "cut short"),
        (frame(b"", length=2**63), "cut short"),
        (frame(b"text"), "not a map"),
        # Each would be read beyond its end, and the time would be quadratic in the number of records or entries.
        (frame(b"") + frame(b""), "not a map"),
        (frame(field(b"", length=16)) + frame(b""), "longer than what holds it"),
        (frame(field(field(b"", length=16) + b"\x0a")) + frame(b""), "longer than what holds it"),
        (frame(field(field(field(b"", length=16)))) + frame(b""), "longer than what holds it"),
        (frame(schema.example(IMAGE._replace(source_id=2**63), [])), "image id of more than 8 bytes"),
        (frame(schema.example(IMAGE._replace(source_id=-(10**300)), [])), "image id of more than 8 bytes"),
        (frame(schema.example(IMAGE._replace(source_id="first"), [])), "invalid literal"),
        (frame(schema.example(IMAGE, [ITEM]).replace(b"object/area", b"object/axxx")), "lack some values"),
        (frame(schema.example(IMAGE, [ITEM]).replace(b"image/height", b"image/hxxxxx")), "index out of range"),
    ],
)
def test_damage(content, reason):
    with pytest.raises(Damaged, match=reason):
        list(walk(frame(schema.example(IMAGE, [])) + content))
