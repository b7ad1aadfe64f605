"""Python code inside a tf.data graph, such that the program can still end.

`data.sample` needs it for what TensorFlow has no operation for: COCO's run lengths.
"""

import atexit
import threading
import time

import tensorflow as tf

# Seconds without a call after which tf.data's buffers are taken to be full.
_QUIET = 0.2


def numpy_op(function, inputs, dtypes):
    """`function(*inputs)` of NumPy arrays, as an operation. It must depend on its arguments alone.

    Args:
      function: takes an array (or bytes) for each input, returns an array for each dtype.
      inputs: tensors.
      dtypes: of the results.
    """

    def call(*arrays):
        with _door:
            return function(*arrays)

    # Stateless operations may run in parallel even where operations must be deterministic.
    return tf.numpy_function(call, inputs, dtypes, stateful=False)


class _Door:
    """Counts the threads that are inside, and closes before the interpreter ends.

    A thread that asks for the interpreter while it shuts down never returns, and TensorFlow, deleting an iterator
    that somebody still held, waits for that thread for ever: the program hangs after its last line.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._last_call = None
        self._closed = False

    def __enter__(self):
        with self._lock:
            if self._closed:
                self._last_call = time.monotonic()
                raise RuntimeError("the program is ending")
            self._inside += 1

    def __exit__(self, *error):
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


_door = _Door()
atexit.register(_door.close)
