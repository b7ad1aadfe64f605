"""Waiting for other processes in tests."""

import time

SECONDS = 400  # longest wait for another process, on a busy machine


def wait_for(condition):
    """Returns the result of a function as soon as it is true."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found
