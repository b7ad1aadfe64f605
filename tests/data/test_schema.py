"""The record schema: serialized and parsed, in Python and in a graph."""

import hashlib
import inspect

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import schema

IMAGE = schema.Image(b"\xff\xd8 not decoded here", "jpeg", 40, 80, "a/ü.jpg", 139)
OBJECTS = (
    schema.Object(7, 0.25, 0.5, 0.5, 1.0, 90, "toothbrush", 0, 123.5, b"04`1"),
    schema.Object(8, 0.0, 0.0, 1.0, 0.125, 1, "person", 1, 3200.0, b"\\Q1"),
)


def test_unpack_inverts_example():
    record = schema.unpack(schema.example(IMAGE, OBJECTS, b"png"))
    assert record.image == IMAGE._replace(sha256=hashlib.sha256(IMAGE.encoded).hexdigest())
    assert record.objects == OBJECTS
    assert record.semantic == b"png"


def test_parse_in_graph():
    serialized = schema.example(IMAGE, OBJECTS, b"png")
    parsed = next(tf.data.Dataset.from_tensors(serialized).map(schema.parse).as_numpy_iterator())
    assert parsed["encoded"] == IMAGE.encoded
    assert parsed["filename"].decode() == "a/ü.jpg"
    assert (parsed["image_id"], parsed["height"], parsed["width"]) == (139, 40, 80)
    np.testing.assert_array_equal(parsed["boxes"], np.float32([[10, 40, 20, 80], [0, 0, 40, 10]]))
    np.testing.assert_array_equal(parsed["categories"], [90, 1])
    np.testing.assert_array_equal(parsed["is_crowd"], [False, True])
    np.testing.assert_array_equal(parsed["areas"], np.float32([123.5, 3200]))
    np.testing.assert_array_equal(parsed["ids"], [7, 8])
    np.testing.assert_array_equal(parsed["mask_rle"], [b"04`1", b"\\Q1"])
    assert parsed["semantic"] == b"png"


def test_no_objects_and_no_map():
    serialized = schema.example(IMAGE, ())
    assert schema.unpack(serialized).objects == ()
    parsed = schema.parse(tf.constant(serialized))
    assert parsed["boxes"].shape == (0, 4)
    assert parsed["mask_rle"].shape == (0,)
    assert parsed["semantic"].numpy() == b""
    assert set(parsed) == set(schema.parse(tf.constant(schema.example(IMAGE, OBJECTS, b"png"))))


def test_same_bytes_every_time():
    assert len({schema.example(IMAGE, OBJECTS, b"png") for _ in range(20)}) == 1


def test_model_gardens_keys():
    example = tf.train.Example.FromString(schema.example(IMAGE, OBJECTS, b"png"))
    assert set(example.features.feature) == set(schema.FEATURES)
    for key in ("image/encoded", "image/source_id", "image/object/bbox/ymin", "image/object/class/label"):
        assert key in schema.FEATURES


@pytest.mark.parametrize("fields, values", [(schema.IMAGE_FIELDS, schema.Image), (schema.OBJECT_FIELDS, schema.Object)])
def test_the_table_and_the_tuples_agree(fields, values):
    assert tuple(field.name for field in fields) == values._fields
    assert all(field.meaning for field in fields)


def test_a_worker_loads_no_model():
    source = inspect.getsource(schema)
    assert "import gin" not in source and "keras" not in source.replace("Keras", "")


@pytest.mark.parametrize(
    "broken, error", [(b"\xff\xff", Exception), (tf.train.Example().SerializeToString(), IndexError)]
)
def test_unpack_refuses_other_bytes(broken, error):
    with pytest.raises(error):
        schema.unpack(broken)
