"""Messages of TensorFlow Serving equal its own byte for byte; its JSON is read and written."""

import json

import numpy as np
import pytest

from htc_tf.errors import UserError
from htc_tf.serving.messages import (
    FLOAT,
    MAX_EQUAL,
    STRING,
    PredictRequest,
    PredictResponse,
    predict_request,
    read_arrays,
)
from htc_tf.serving.rest_client import read_values
from tests.benchmarks.payload import grpc_bytes, rest_bytes, write_float

# Written by tensorflow-serving-api 2.15.1 with deterministic serialization.
REQUEST = bytes.fromhex(
    "0a180a03687463120208031a0d707265646963745f627974657312220a0b696d6167655f6279746573121308071204120208024203"
    "6f6e6542040074776f"
)
# `boxes` is in tensor_content, as make_tensor_proto writes it; `sizes` [1, 2] has one value for both numbers.
RESPONSE = bytes.fromhex(
    "0a3b0a05626f78657312320801120c1202080112020802120208042220000000000000803f0000004000004040000080400000a0400000"
    "c0400000e0400a250a0b636c6173735f6e616d6573121608071208120208011202080242036361744203646f670a240a07636c61737365"
    "7312190803120812020801120208023a0b01feffffffffffffffff010a200a0673636f7265731216080112081202080112020802"
    "2a080000003f0000803e0a180a0573697a6573120f0803120812020801120208023a010712090a0368746312020803"
)
ARRAYS = {
    "boxes": np.arange(8, dtype=np.float32).reshape(1, 2, 4),
    "class_names": np.array([[b"cat", b"dog"]], object),
    "classes": np.array([[1, -2]], np.int32),
    "scores": np.array([[0.5, 0.25]], np.float32),
    "sizes": np.array([[7, 7]], np.int32),
}


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tolist() == array.tolist()


def test_a_request_equals_the_apis():
    files = np.array([b"one", b"\x00two"], object)
    request = predict_request("htc", 3, {"image_bytes": files}, "predict_bytes")
    assert request.SerializeToString() == REQUEST
    assert_same(read_arrays(PredictRequest.FromString(REQUEST).inputs), {"image_bytes": files})
    newest = predict_request("htc", None, {})
    assert newest.SerializeToString() == b"\n\x05\n\x03htc"


def test_a_response_is_read_in_all_its_forms():
    response = PredictResponse.FromString(RESPONSE)
    assert_same(read_arrays(response.outputs), ARRAYS)
    assert response.model_spec.version.value == 3
    # Written again, with the values in typed fields, as the server does.
    assert_same(read_arrays(PredictResponse.FromString(grpc_bytes(ARRAYS)).outputs), ARRAYS)


def test_an_output_of_another_dtype_is_named():
    response = PredictResponse()
    response.outputs.add(key="logits").value.dtype = 19  # half
    with pytest.raises(UserError, match="output logits has dtype 19"):
        read_arrays(response.outputs)


def make_output(dtype, shape, content=b"", **values):
    """Returns the outputs of a response whose one tensor states a type and a shape."""
    response = PredictResponse()
    tensor = response.outputs.add(key="boxes").value
    tensor.dtype, tensor.tensor_content = dtype, content
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for field, numbers in values.items():
        getattr(tensor, field).extend(numbers)
    return response.outputs


@pytest.mark.parametrize(
    "output",
    [
        make_output(STRING, [1], b"abc"),
        make_output(FLOAT, [5], b"abcd"),
        make_output(FLOAT, [1], b"abc"),
        make_output(FLOAT, [2], float_val=[1, 2, 3]),
        make_output(FLOAT, [9], float_val=[1, 2]),
        make_output(FLOAT, [-1, -1], float_val=[1, 2]),
        make_output(FLOAT, [-1], float_val=[1]),
        make_output(FLOAT, [-1]),
        make_output(FLOAT, [2**32, 2**32], float_val=[1]),
        make_output(FLOAT, [1] * 99, float_val=[1]),
        make_output(FLOAT, [2 * MAX_EQUAL], float_val=[1]),
        make_output(FLOAT, [2**62, 4]),
    ],
)
def test_an_output_whose_values_do_not_fit_its_shape_is_one_line(output):
    with pytest.raises(UserError, match="the model's response is damaged: boxes does not fit its shape"):
        read_arrays(output)


@pytest.mark.parametrize(
    ("output", "value"),
    [
        (make_output(FLOAT, [MAX_EQUAL], float_val=[2.5]), np.float32(2.5)),
        (make_output(FLOAT, [MAX_EQUAL]), np.float32(0)),
        (make_output(STRING, [MAX_EQUAL], string_val=[b"x"]), b"x"),
        (make_output(STRING, [MAX_EQUAL]), b""),
    ],
)
def test_equal_values_take_no_memory(output, value):
    (array,) = read_arrays(output).values()
    assert array.shape == (MAX_EQUAL,) and array.strides == (0,)
    assert array[-1] == value and type(array[-1]) is type(value)


def test_json_has_the_servers_layout():
    outputs = {
        "scores": np.array([[1, 1 / 3]], np.float32),
        "status": np.array(["Käse".encode()], object),
        "masks_bytes": np.array([[b"\xff", b"\x00/"]], object),
    }
    text = rest_bytes(outputs).decode()
    assert text == (
        "{\n"
        '    "predictions": [\n'
        "        {\n"
        '            "scores": [1.0, 0.333333343],\n'
        '            "status": "Käse",\n'
        '            "masks_bytes": [{\n'
        '                    "b64": "/w=="\n'
        "                }, {\n"
        '                    "b64": "AC8="\n'
        "                }]\n"
        "        }\n"
        "    ]\n"
        "}"
    )
    (row,) = json.loads(text)["predictions"]
    assert_same({name: read_values([value], name) for name, value in row.items()}, outputs)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0"), (0.2, "0.2"), (9e6, "9e+06"), (3e-5, "3e-05"), (16777215, "16777215.0"), (np.nan, "NaN")],
)
def test_numbers_have_the_servers_format(value, text):
    assert write_float(np.float32(value)) == text
