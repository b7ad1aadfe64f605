"""NumPy functions as operations of a tf.data graph, wrapped so that the interpreter can still shut down.

COCO's run lengths and copy-paste need it: TensorFlow has no operation for them.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# Seconds without a call after which tf.data's buffers are assumed to be full.
_QUIET = 0.2


def numpy_op(function: Callable[..., Any], inputs: Sequence[tf.Tensor], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """Wraps `function(*inputs)`, which must depend on its arguments alone, as a TensorFlow operation.

    Args:
        function: Takes an array (or bytes) for each input and returns an array for each dtype.
        inputs: List of tensors.
        dtypes: List of tf.DType, one per result.
    """

    def call(*arrays):
        with _gate:
            return function(*arrays)

    # Stateless operations may run in parallel even if operations must be deterministic.
    return tf.numpy_function(call, inputs, dtypes, stateful=False)


class _Gate:
    """Counts the threads inside Python code, and closes before the interpreter shuts down.

    A thread that asks for the interpreter during shutdown never returns, and TensorFlow, deleting an iterator that is
    still referenced, waits for that thread forever: the program hangs after its last line.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._last_call: float | None = None
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                self._last_call = time.monotonic()
                raise RuntimeError("the program is ending")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            self._last_call = time.monotonic()

    def close(self):
        with self._lock:
            self._closed = True
            if self._last_call is None:
                return
            self._last_call = time.monotonic()
        while self._inside or time.monotonic() - self._last_call < _QUIET:
            time.sleep(0.01)


_gate = _Gate()
atexit.register(_gate.close)
