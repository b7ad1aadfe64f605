"""Responses of a server or an exported model: both forms of masks, and anything damaged is one line."""

import contextlib
import http.client
from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.inference.exported_outputs import MAX_SIDE, read_responses
from htc_tf.ops.paste import encode_masks
from htc_tf.serving.rest_client import RestClient, read_values, server_message


def outputs(**masks):
    """Returns a model's outputs for one image of 20 x 30 pixels: one object, one row of padding."""
    return {
        "boxes": np.array([[[2, 3, 12, 23], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.5, 0]], np.float32),
        "classes": np.array([[1, 0]], np.int32),
        "class_names": np.array([[b"dog", b"cat"]], object),
        "num_detections": np.array([1], np.int32),
        "sizes": np.array([[20, 30]], np.int32),
        "status": np.array([b""], object),
        **{name: array[np.newaxis] for name, array in masks.items()},
    }


def test_masks_in_either_form_are_the_same():
    small = np.zeros([2, 28, 28], np.float32)
    small[0, 4:20, 6:] = 1
    (run,) = encode_masks(small[:1], outputs()["boxes"][0, :1], 20, 30)
    rle = np.array([run["counts"].encode(), b""], object)
    for masks in ({"masks_28": small}, {"masks_rle_bytes": rle}):
        (answer,) = read_responses(outputs(**masks), 1)
        assert answer.result.masks == [run] and answer.names == ["dog"] and answer.size == (20, 30)
    (answer,) = read_responses(outputs(), 1)
    assert answer.result.masks is None
    assert answer.describe(masks=True)["detections"] == [{"class": "dog", "score": 0.5, "box": [2, 3, 12, 23]}]


def test_damaged_run_lengths_are_refused():
    """pycocotools would write beyond its memory."""
    with pytest.raises(UserError, match="run lengths that do not fill 20 x 30 pixels"):
        read_responses(outputs(masks_rle_bytes=np.array([b"ooooo3", b""], object)), 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": np.array([[1_000_000, 0]], np.int32)},
        {"classes": np.array([[-1, 0]], np.int32)},
        {"classes": np.array([[1]], np.int32)},
        {"classes": np.array([[1.0, 0.0]], np.float32)},
        {"boxes": np.zeros([1, 2, 3], np.float32)},
        {"boxes": np.zeros([1], np.float32)},
        {"boxes": np.full([1, 2, 4], np.nan, np.float32)},
        {"sizes": np.array([20], np.int32)},
        {"sizes": np.array([[20.0, 30.0]], np.float32)},
        {"sizes": np.array([[-20, 30]], np.int32)},
        {"num_detections": np.array([3], np.int32)},
        {"num_detections": np.array([-1], np.int32)},
        {"num_detections": np.array([b"1"], object)},
        {"status": np.array([0], np.int32)},
        {"class_names": np.array([[1, 2]], np.int32)},
        {"boxes": np.float32(1)},
        {"scores": np.zeros([0, 2], np.float32)},
        {"status": np.array([b"", b""], object)},
        {"sizes": np.array([[2**16, 2**16]], np.int32)},
        {"masks_28": np.zeros([1, 2, 5], np.float32)},
        {"masks_28": np.zeros([1, 2, 5, 5], np.float32)},
        {"masks_28": np.zeros([1, 0, 28, 28], np.float32)},
        {"masks_28": np.zeros([1, 2, 28, 28], np.int32)},
        {"masks_28": np.full([1, 2, 28, 28], np.inf, np.float32)},
        {"masks_rle_bytes": np.array([[5, 5]], np.int32)},
        {"masks_rle_bytes": np.array([["x", "y"]])},
        {"masks_rle_bytes": np.zeros([1, 0], object)},
    ],
)
def test_outputs_that_do_not_fit_together_are_refused(changed):
    with pytest.raises(UserError, match="the model's response is damaged"):
        read_responses(outputs() | changed, 1)


@pytest.mark.parametrize(
    "box",
    [
        [-3e38, -3e38, 3e38, 3e38],  # finite, and a drawing would fail
        [12, 3, 2, 23],
        [2, 23, 12, 3],
        [-2, 3, 12, 23],
        [2, -2, 12, 23],
        [2, 3, 22, 23],
        [2, 3, 12, 32],
    ],
)
def test_boxes_that_are_none_of_the_image_are_refused(box):
    """A model gives boxes that are clipped to the image, so nothing that reads a response expects others."""
    found = outputs()
    found["boxes"][0, 0] = box
    with pytest.raises(UserError, match=r"the model's response is damaged: boxes are not within 20 x 30 pixels$"):
        read_responses(found, 1)


@pytest.mark.parametrize(
    ("box", "count"),
    [
        ([0, 0, 20, 30], 1),
        ([0, 0, 20.001, 30.001], 1),  # another program may have rounded it
        ([20, 30, 20, 30], 1),  # of an object beyond the border
        ([0, 0, 0, 0], 1),
        ([9, 9, 3, 3], 0),  # padding, which nothing reads
    ],
)
def test_boxes_of_the_image_are_read(box, count):
    found = outputs() | {"num_detections": np.array([count], np.int32)}
    found["boxes"][0, 0] = box
    (answer,) = read_responses(found, 1)
    assert answer.result.boxes.tolist() == found["boxes"][0, :count].tolist()


def test_a_refused_image_has_no_boxes():
    refused = {"sizes": np.zeros([1, 2], np.int32), "num_detections": np.zeros([1], np.int32)}
    (answer,) = read_responses(outputs() | refused | {"status": np.array([b"empty: no bytes"], object)}, 1)
    assert answer.status == "empty: no bytes" and answer.result.boxes.shape == (0, 4)


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1), (2**14, 2**14)])
def test_masks_of_a_very_large_image(size):
    """A server may state any size, and pasting takes memory for each row and column, or even for each pixel."""
    long = {"sizes": np.array([size], np.int32), "masks_28": np.ones([1, 2, 28, 28], np.float32)}
    long["boxes"] = np.zeros([1, 2, 4], np.float32)
    with pytest.raises(UserError, match="export the run with --masks masks_rle_bytes"):
        read_responses(outputs() | long, 1)


def test_masks_of_a_long_image_are_pasted_one_after_the_other():
    found = outputs() | {
        "boxes": np.array([[[2, 0, 12, 3], [100_000, 1, 600_000, 3]]], np.float32),
        "masks_28": np.ones([1, 2, 28, 28], np.float32),
        "sizes": np.array([[MAX_SIDE - 1, 3]], np.int32),
        "num_detections": np.array([2], np.int32),
    }
    (answer,) = read_responses(found, 1)
    assert answer.result.masks == encode_masks(found["masks_28"][0], found["boxes"][0], MAX_SIDE - 1, 3)


def test_strings_that_are_not_utf_8():
    (answer,) = read_responses(outputs() | {"class_names": np.array([[b"d\xff", b""]], object)}, 1)
    assert answer.names == ["d\ufffd"]
    (answer,) = read_responses(outputs() | {"status": np.array([b"no \xff"], object)}, 1)
    assert answer.status == "no \ufffd"


def test_another_model_is_refused():
    with pytest.raises(UserError, match="without boxes, scores"):
        read_responses({"logits": np.zeros([1, 3], np.float32)}, 1)


DEEP = b"[" * 200_000  # json.loads raises RecursionError


@pytest.mark.parametrize(
    "content", [DEEP, b'{"predictions": [[0]]}', b'{"predictions": [{"status": "\\ud800"}]}', b"\xff", b"3"]
)
def test_json_of_any_content(monkeypatch, content):
    model = RestClient("here", "htc", None, 9)
    monkeypatch.setattr(model, "fetch", lambda *arguments: content)
    with pytest.raises(UserError, match="here: not an answer of"):
        model.predict([b"image"])
    assert model.describe_versions() == "no version known"


def test_json_takes_no_memory_for_what_it_does_not_hold():
    """An array of NumPy's own strings has room for the longest in every row: here 4 TB."""
    values = ["x" * 10**6] + [""] * 10**6
    for mixed in (values, [1.5, *values]):
        with contextlib.suppress(TypeError):
            assert read_values(mixed, "class_names").tolist() == [value.encode() for value in mixed]


@pytest.mark.parametrize(
    ("values", "array"),
    [
        ([[0.5, 2]], np.array([[0.5, 2]], np.float32)),
        ([3, 4], np.array([3, 4], np.int32)),
        ([["a", "Käse"]], np.array([[b"a", "Käse".encode()]], object)),
        ([1e300], np.array([np.inf], np.float32)),
        ([[], []], np.zeros([2, 0], np.float32)),
    ],
)
def test_values_of_json(values, array):
    found = read_values(values, "x")
    assert found.dtype == array.dtype and found.shape == array.shape and found.tolist() == array.tolist()


@pytest.mark.parametrize(
    "value", ["[1, [2]]", "[null]", "[true]", "{}", "9" * 400, "0.5, " + "9" * 400, "3000000000", "[" * 99 + "]" * 99]
)
def test_values_of_json_that_are_no_arrays(monkeypatch, value):
    content = f'{{"predictions": [{{"boxes": [{value}]}}]}}'.encode()
    model = RestClient("here", "htc", None, 9)
    monkeypatch.setattr(model, "fetch", lambda *arguments: content)
    with pytest.raises(UserError, match="here: not an answer of"):
        model.predict([b"image"])


@pytest.mark.parametrize("failure", [http.client.IncompleteRead(b"{", 99), TimeoutError(), ConnectionResetError()])
def test_a_refusal_whose_body_is_cut(failure):
    def cut(size):
        raise failure

    assert server_message(SimpleNamespace(reason="Internal Server Error", read=cut)) == "Internal Server Error"


def test_a_refusal_of_deep_json():
    refused = SimpleNamespace(reason="Internal Server Error", read=lambda size: DEEP[:size])
    assert server_message(refused).startswith("Internal Server Error ('[[[")
