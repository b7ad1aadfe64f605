"""Safetensors files: a length of 8 bytes, a JSON header, and the numbers, read by the safetensors library.

Its `safetensors.numpy` has no bfloat16, so the bytes are taken from `deserialize`, which checks the header and that the
arrays neither overlap nor reach beyond the file.
"""

import struct
from typing import NamedTuple

import numpy as np
import safetensors

from htc_tf.weights.pickled_arrays import BFLOAT16

MAX_HEADER = 10_000_000  # bytes; 2,400 tensors take about 300,000
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class RawArray(NamedTuple):
    """An array as the library returns it."""

    shape: list[int]
    dtype: str  # key of DTYPES, unless NumPy lacks it
    data: bytearray

    def source(self) -> tuple[object, int]:
        """Returns the object that holds the numbers, and its size in bytes."""
        return self.data, len(self.data)

    def array(self) -> np.ndarray:
        if self.dtype not in DTYPES:
            raise ValueError(f"numbers of type {self.dtype}, which NumPy lacks")
        return np.frombuffer(self.data, DTYPES[self.dtype]).reshape(self.shape)


def is_safetensors(data: bytes) -> bool:
    """Returns True if a file starts with a plausible length of a header and the header's brace."""
    return data[6:9] == b"\0\0{"


def read_safetensors(data: bytes) -> dict[str, RawArray]:
    """Returns {name: RawArray} of a file's bytes."""
    (length,) = struct.unpack_from("<Q", data)
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return {name: RawArray(**parts) for name, parts in safetensors.deserialize(bytes(data))}
