"""What stands for arrays in a pickle, and the table of globals that a pickle may name.

Comes before `pickles`, which calls it; nothing here reads a file, and an array is a view of bytes that are there.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MOST_AXES = 32
DTYPE_CODE = re.compile(r"[<>=|]?([biuf][0-9]{1,2}|\?)")


@dataclass
class Storage:
    """PyTorch's flat memory, which tensors are views of. `fetch` -> its bytes, the small end first, when wanted."""

    dtype: np.dtype
    count: int
    fetch: Callable | None = None

    @property
    def size(self):
        """Bytes."""
        return self.count * self.dtype.itemsize

    def flat(self):
        """-> [count] `dtype`, without a copy."""
        data = self.fetch()
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes in the place of {self.count} numbers ({self.dtype})")
        return np.frombuffer(data, self.dtype)


class Tensor(NamedTuple):
    """A view of a Storage: shape and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    def source(self):
        """-> what holds its numbers, and the bytes of that."""
        return self.storage, self.storage.size

    def array(self):
        flat, offset, shape, strides = self.storage.flat(), self.offset, tuple(self.shape), tuple(self.strides)
        numbers = (offset, *shape, *strides)
        small = len(shape) == len(strides) <= MOST_AXES
        if not small or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError("no tensor has this offset, shape and strides")
        size = math.prod(shape)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        # Nor may it repeat its numbers, which would make a small file a large array.
        if size > flat.size or (size and last >= flat.size):
            raise ValueError(f"offset {offset}, shape {shape} and strides {strides} leave a storage of {flat.size}")
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:] if size else flat, shape, steps, writeable=False)


class NumpyDtype:
    """What NumPy pickles of a dtype: a code such as f4, then the byte order."""

    def __init__(self, code, *_):
        self.code, self.order = code, "="

    def set_state(self, state):
        self.order = state[1]

    def dtype(self):
        if not isinstance(self.code, str) or not DTYPE_CODE.fullmatch(self.code) or self.order not in list("<>=|"):
            raise ValueError("an array of something else than numbers")
        return np.dtype(self.code).newbyteorder(self.order)


class NumpyArray:
    """What NumPy pickles of an array: version, shape, dtype, order of the axes, bytes."""

    def __init__(self, *_):
        self.state = None

    def set_state(self, state):
        self.state = state

    def source(self):
        return self.state[-1], len(self.state[-1])

    def array(self):
        _, shape, dtype, fortran, data = self.state
        # Python 2 wrote bytes as a string.
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


class NumpyScalar(NamedTuple):
    """What NumPy pickles of a single number."""

    dtype: NumpyDtype
    data: bytes

    def source(self):
        return self.data, len(self.data)

    def array(self):
        return np.frombuffer(self.data, self.dtype.dtype()).reshape(())


class Mapping(dict):
    """An OrderedDict, without the attributes that PyTorch hangs on it."""

    def __init__(self, pairs=()):
        super().__init__()
        for key, value in pairs:
            self[check_key(key)] = value

    def set_state(self, state):
        pass


class Call(NamedTuple):
    """A function that a pickle may call, and cannot change."""

    function: Callable

    def __call__(self, *args):
        return self.function(*args)


def encode(text, encoding):
    """The bytes of a text, as Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


def check_key(key):
    """A key of a dict: nested tuples would take for ever to hash."""
    if not isinstance(key, str | bytes | int | float | None):
        raise ValueError(f"a {type(key).__name__} as a key")
    return key


DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(tf.bfloat16.as_numpy_dtype),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What a global stands for: a string where it is only mentioned, else what is called in its place.
GLOBALS = {f"torch.{name}": name for name in DTYPES} | {
    "torch.Size": Call(tuple),
    "torch._utils._rebuild_tensor": Call(Tensor),
    "torch._utils._rebuild_tensor_v2": Call(
        lambda storage, offset, shape, strides, *_: Tensor(storage, offset, shape, strides)
    ),
    "torch._utils._rebuild_parameter": Call(lambda tensor, *_: tensor),
    "collections.OrderedDict": Call(Mapping),
    "builtins.tuple": Call(tuple),
    "__builtin__.tuple": Call(tuple),
    "_codecs.encode": Call(encode),
    "numpy.ndarray": "ndarray",
    "numpy.dtype": Call(NumpyDtype),
    "numpy.core.multiarray._reconstruct": Call(NumpyArray),
    "numpy.core.multiarray.scalar": Call(NumpyScalar),
    "numpy._core.multiarray._reconstruct": Call(NumpyArray),
    "numpy._core.multiarray.scalar": Call(NumpyScalar),
}
