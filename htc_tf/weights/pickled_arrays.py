"""Arrays in pickles: descriptions of PyTorch's tensors and NumPy's arrays, and the globals that build them.

Nothing here reads a file; each array is a view of bytes that exist.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

MAX_AXES = 32
MAX_KEY_BITS = 60  # of an integer as a key; the keys of old optimizers are addresses
MAX_KEY_LETTERS = 10_000
BFLOAT16 = np.dtype(tf.bfloat16.as_numpy_dtype)
DTYPE_CODE = re.compile(r"[<>=|]?([biuf][0-9]{1,2}|\?)")


@dataclass
class Storage:
    """PyTorch's flat memory; tensors are views of it. `fetch` returns its little-endian bytes when needed."""

    dtype: np.dtype
    count: int
    fetch: Callable[[], bytes | memoryview] | None = None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * self.dtype.itemsize

    def flat(self) -> np.ndarray:
        """Returns [count] `dtype` without a copy."""
        if self.fetch is None:
            raise ValueError("the numbers of a storage are missing")
        data = self.fetch()
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes instead of {self.count} numbers ({self.dtype})")
        return np.frombuffer(data, self.dtype)


class Tensor(NamedTuple):
    """A view of a Storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def source(self) -> tuple[object, int]:
        """Returns the object that holds the numbers, and its size in bytes."""
        return self.storage, self.storage.size

    def array(self) -> np.ndarray:
        flat, offset, shape, strides = self.storage.flat(), self.offset, tuple(self.shape), tuple(self.strides)
        numbers = (offset, *shape, *strides)
        small = len(shape) == len(strides) <= MAX_AXES
        if not small or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError("impossible offset, shape and strides")
        size = math.prod(shape)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        # A tensor must not repeat its numbers either: that would make a large array of a small file.
        if size > flat.size or (size and last >= flat.size):
            raise ValueError(f"offset {offset}, shape {shape} and strides {strides} exceed a storage of {flat.size}")
        steps = [stride * flat.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat[offset:] if size else flat, shape, steps, writeable=False)


class NumpyDtype:
    """NumPy's pickled dtype: a code such as f4, then the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = code, "="

    def set_state(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype:
        if not isinstance(self.code, str) or not DTYPE_CODE.fullmatch(self.code) or self.order not in list("<>=|"):
            raise ValueError("an array of something other than numbers")
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class NumpyArray:
    """NumPy's pickled array: version, shape, dtype, order of the axes, bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state

    def source(self) -> tuple[object, int]:
        return self.state[-1], len(self.state[-1])

    def array(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        # Python 2 pickled bytes as a string.
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, dtype.dtype()).reshape(shape, order="F" if fortran else "C")


class NumpyScalar(NamedTuple):
    """NumPy's pickled number."""

    dtype: NumpyDtype
    data: bytes

    def source(self) -> tuple[object, int]:
        return self.data, len(self.data)

    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, self.dtype.dtype()).reshape(())


class Mapping(dict):
    """An OrderedDict without the attributes that PyTorch sets on it."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()) -> None:
        super().__init__()
        for key, value in pairs:
            self[check_key(key)] = value

    def set_state(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Inert:
    """A stand-in for a global outside the table, for an instance of it and for the result of calling it."""

    name: str  # printable

    def set_state(self, state: Any) -> None:
        pass


class Call(NamedTuple):
    """A function that a pickle may call but cannot change."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def encode(text: str, encoding: str) -> bytes:
    """Returns the bytes of a text; Python 3 pickles bytes for Python 2 as a call of this function."""
    if encoding != "latin1":
        raise ValueError("bytes in an encoding other than latin1")
    return text.encode("latin1")


def check_key(key: Any) -> Any:
    """Returns a valid key of a dict; others could take forever to hash or to compare."""
    if not isinstance(key, str | bytes | int | float | Inert | None):  # such as nested tuples
        raise ValueError(f"a {type(key).__name__} as a key")
    # Python hashes integers modulo 2^61 - 1: a dict of larger ones can be a list that is searched for each key.
    if isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
        raise ValueError(f"a key of more than {MAX_KEY_BITS} bits")
    # Two equal texts are compared letter by letter, each time that one of them is looked up.
    if isinstance(key, str | bytes) and len(key) > MAX_KEY_LETTERS:
        raise ValueError(f"a key of more than {MAX_KEY_LETTERS} letters")
    return key


DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# Globals that run commands or load code; no checkpoint needs them.
HARMFUL = re.compile(
    r"(os|posix|nt|sys|subprocess|pty|shutil|socket|ctypes|importlib|runpy|pickle|_pickle)\."
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|apply|open|input|breakpoint|__import__)$"
)
# {global: its replacement}: a string if pickles only mention it, a Call if they call it.
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
