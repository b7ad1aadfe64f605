"""Pickles read as data: arrays, numbers, strings and containers of them, and nothing else.

A pickle is a program: it may name any function of any module and have it called. Here a name outside one short table
ends the reading before anything is imported, and the functions in the table do nothing but describe arrays
(https://docs.python.org/3/library/pickle.html#restricting-globals). Comes after `files`, which finds the pickle in a
file, and before `versions`.
"""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.errors import UserError


@dataclass
class Storage:
    """PyTorch's flat memory, which tensors are views of. `fetch` -> its bytes, the small end first, when wanted."""

    dtype: np.dtype
    count: int
    fetch: Callable | None = None

    def flat(self):
        data = self.fetch()
        if len(data) != self.count * self.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes in the place of {self.count} numbers ({self.dtype})")
        return np.frombuffer(data, self.dtype)


class Tensor(NamedTuple):
    """A view of a Storage: shape and strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self):
        flat, offset, shape, strides = self.storage.flat(), self.offset, tuple(self.shape), tuple(self.strides)
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise ValueError(f"no tensor has offset {offset}, shape {shape} and strides {strides}")
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

    def __setstate__(self, state):
        self.order = state[1]

    def dtype(self):
        dtype = np.dtype(self.code)
        if dtype.kind not in "biuf" or self.order not in "<>=|":
            raise ValueError(f"an array of {dtype}, not of numbers")
        return dtype.newbyteorder(self.order)


class NumpyArray:
    """What NumPy pickles of an array: version, shape, dtype, order of the axes, bytes."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state

    def array(self):
        _, shape, dtype, fortran, data = self.state
        # Python 2 wrote bytes as a string.
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


class NumpyScalar(NamedTuple):
    """What NumPy pickles of a single number."""

    dtype: NumpyDtype
    data: bytes

    def array(self):
        return np.frombuffer(self.data, self.dtype.dtype()).reshape(())


class Mapping(dict):
    """An OrderedDict, without the attributes that PyTorch hangs on it."""

    def __setstate__(self, state):
        pass


class Call(NamedTuple):
    """A function that a pickle may call, and cannot change."""

    function: Callable

    def __call__(self, *args):
        return self.function(*args)


def encode(text, encoding):
    """The bytes of a text, as Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


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


class ArrayUnpickler(pickle.Unpickler):
    """Reads one pickle; `storages` are those that its tensors are views of, by key."""

    def __init__(self, file, path):
        super().__init__(file, encoding="latin1")
        self.path, self.storages = path, {}

    def find_class(self, module, name):
        """A global of the table.

        Raises:
            UserError: any other.
        """
        try:
            return GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise UserError(
                f"{self.path} names the global {module}.{name}, which is no part of an array: refused. If you trust "
                "the file, write its weights alone by its own framework, as torch.save(checkpoint['state_dict'], NEW)"
            ) from None

    def persistent_load(self, pid):
        """PyTorch's reference to a storage: ("storage", type, key, device, count), in the older format a view too."""
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in DTYPES or not isinstance(count, int) or any(view):
            raise ValueError(f"a reference to {pid}, which is no storage of numbers")
        return self.storages.setdefault(key, Storage(DTYPES[dtype], count))
