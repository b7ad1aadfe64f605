"""Safetensors files: read bit for bit, and refused in one line if they are cut, hostile or of unknown numbers."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from tests.weights.reading import load, refused

NAMED = {
    "kernel": np.random.default_rng(0).standard_normal((3, 4, 2, 1)).astype("f4"),
    "half": np.array([[0.5, 65504]], "f2"),
    "counter": np.array(2**40, "i8"),
    "none": np.zeros([0, 3], "f4"),
}


def write_safetensors(path, header, numbers=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + numbers)


def test_safetensors_come_back(write, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(NAMED, path, {"format": "pt"})
    arrays = load(path)
    assert arrays.keys() == NAMED.keys()
    for name, array in arrays.items():
        assert array.dtype == (np.int64 if name == "counter" else np.float32) and array.flags.owndata
        np.testing.assert_array_equal(array, NAMED[name])
    short = np.array([[1.0, -3.140625, 2.0**100]], write.BFLOAT16)
    write_safetensors(path, {"short": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]}}, short.tobytes())
    np.testing.assert_array_equal(load(path)["short"], short.astype("f4"))


def test_cut_safetensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(NAMED, path)
    data = path.read_bytes()
    for end in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:end])
        refused(path, "damaged or not a checkpoint" if end else "is empty")


@pytest.mark.parametrize(
    ("header", "numbers", "words"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}}, bytes(16), "damaged"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(16), "damaged"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, bytes(8), "damaged"),
        ({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}, bytes(8), "damaged"),
        ({"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}, b"", "a is damaged"),
        ({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8), "a is damaged"),
        ({"a": {"dtype": "os.system", "shape": [8], "data_offsets": [0, 8]}}, bytes(8), "damaged"),
        ({f"a{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(9)}, bytes(8), "damaged"),
        ({"a\nb": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), "no named weights"),
        ({"a": 3}, b"", "damaged"),
        ({}, b"", "no named weights"),
        (b'{"a":' + b"[" * 100_000, b"", "damaged"),
        (b"{" + b" " * 100, b"", "damaged"),
    ],
)
def test_hostile_safetensors_are_refused(tmp_path, header, numbers, words):
    write_safetensors(tmp_path / "file", header, numbers)
    refused(tmp_path / "file", words)


@pytest.mark.parametrize("length", [0, 1, 10, 1000, 9_999_999, 10_000_001, 2**40])
def test_headers_of_another_length_are_refused(tmp_path, length):
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    write_safetensors(tmp_path / "file", header, bytes(8), length)
    refused(tmp_path / "file", "damaged")
